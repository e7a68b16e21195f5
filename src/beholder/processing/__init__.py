"""Between messages and tensors: pictures to pixels, templates to ids, ids to text. No family is named."""
