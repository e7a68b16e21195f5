"""Boxes in answers: reading them from text, placing them on the picture, drawing them. No models here."""
