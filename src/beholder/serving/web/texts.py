"""The words of the page, in English and Chinese."""

from __future__ import annotations

LANGUAGES = {"English": "en", "中文": "zh"}

TEXTS: dict[str, dict[str, str]] = {
    "title": {"en": "Ask a model about pictures", "zh": "就图片向模型提问"},
    "language": {"en": "Language", "zh": "语言"},
    "dark": {"en": "Light / dark", "zh": "浅色 / 深色"},
    "model": {"en": "Model", "zh": "模型"},
    "model_left": {"en": "Left model", "zh": "左侧模型"},
    "model_right": {"en": "Right model", "zh": "右侧模型"},
    "refresh": {"en": "Refresh models", "zh": "刷新模型列表"},
    "settings": {"en": "Settings", "zh": "设置"},
    "system": {"en": "System prompt", "zh": "系统提示词"},
    "system_info": {"en": "Empty: the model's own", "zh": "留空则使用模型自带的提示词"},
    "template": {"en": "Template", "zh": "对话模板"},
    "temperature": {"en": "Temperature", "zh": "温度"},
    "temperature_info": {"en": "0 always takes the likeliest word", "zh": "0 表示总是取最可能的词"},
    "top_p": {"en": "Top-p", "zh": "Top-p"},
    "top_k": {"en": "Top-k (0: off)", "zh": "Top-k（0：关闭）"},
    "max_tokens": {"en": "Longest answer, in tokens", "zh": "回答的最大词元数"},
    "key": {"en": "API key", "zh": "API 密钥"},
    "key_info": {"en": "Only where the server asks for one", "zh": "仅在服务器要求时填写"},
    "chat": {"en": "Chat", "zh": "对话"},
    "compare": {"en": "Side by side", "zh": "并排比较"},
    "explain": {"en": "Explain", "zh": "解释"},
    "box": {"en": "Your question", "zh": "你的问题"},
    "placeholder": {
        "en": "Ask something; add pictures with the clip, by pasting, or by dropping them here",
        "zh": "输入问题；可用回形针、粘贴或拖放添加图片",
    },
    "stop": {"en": "Stop", "zh": "停止"},
    "again": {"en": "Regenerate", "zh": "重新生成"},
    "edit": {"en": "Edit", "zh": "编辑"},
    "copy": {"en": "Copy answer", "zh": "复制回答"},
    "box_full": {
        "en": "Send or empty the text box first; the last question would replace what stands there.",
        "zh": "请先发送或清空输入框，否则上一个问题会覆盖其中的内容。",
    },
    "box_full_edited": {
        "en": "Send or empty the text box first; a question that is refused comes back to it.",
        "zh": "请先发送或清空输入框：未被接受的问题会放回其中。",
    },
    "clear": {"en": "New conversation", "zh": "新对话"},
    "export": {"en": "Export", "zh": "导出"},
    "import": {"en": "Import", "zh": "导入"},
    "camera": {"en": "Camera", "zh": "相机"},
    "examples": {"en": "Examples", "zh": "示例"},
    "show_explain": {"en": "Explain this conversation", "zh": "解释当前对话"},
    "prompt": {"en": "The prompt, exactly as the model gets it", "zh": "模型实际收到的提示词"},
    "views": {"en": "What the model sees of the pictures", "zh": "模型看到的图片视图"},
    "ready": {"en": "{model} is ready.", "zh": "{model} 已就绪。"},
    "not_ready": {"en": "{model} is not ready: {reason}", "zh": "{model} 未就绪：{reason}"},
    "loading": {"en": "it is still loading", "zh": "仍在加载"},
    "facts": {
        "en": "{family}, context {context} tokens, at most {pictures} pictures, {dtype}",
        "zh": "{family}，上下文 {context} 个词元，最多 {pictures} 张图片，{dtype}",
    },
    "no_models": {"en": "The server has no models.", "zh": "服务器没有模型。"},
    "choose_model": {"en": "Choose a model first.", "zh": "请先选择模型。"},
    "no_question": {"en": "Write a question or add a picture first.", "zh": "请先输入问题或添加图片。"},
    "nothing_yet": {"en": "There is no question yet.", "zh": "还没有提问。"},
    "error": {"en": "This did not work: {cause}", "zh": "未能完成：{cause}"},
    "bad_picture": {"en": "{name} cannot be used: {cause}", "zh": "{name} 无法使用：{cause}"},
    "asking": {"en": "The model is reading …", "zh": "模型正在阅读 ……"},
    "done": {
        "en": "{seconds:.1f} s · {prompt} tokens in, {pictures} of them pictures · {answer} tokens out",
        "zh": "{seconds:.1f} 秒 · 输入 {prompt} 个词元，其中图片 {pictures} 个 · 输出 {answer} 个词元",
    },
    "done_without_counts": {"en": "{seconds:.1f} s", "zh": "{seconds:.1f} 秒"},
    "cut": {
        "en": "The answer reached the longest length and ends here.",
        "zh": "回答已达到最大长度，到此为止。",
    },
    "stopped": {"en": "Stopped.", "zh": "已停止。"},
    "counts": {
        "en": "**{count}** of {limit} tokens: **{pictures}** for pictures (at {spans}), {text} for text",
        "zh": "共 **{count}** / {limit} 个词元：**{pictures}** 个代表图片（位置 {spans}），{text} 个为文本",
    },
    "no_spans": {"en": "no place", "zh": "无"},
    "no_views": {
        "en": "This model does not tell what it sees of the pictures.",
        "zh": "该模型无法给出图片视图。",
    },
    "picture": {"en": "picture", "zh": "图片"},
    "control": {"en": "special token", "zh": "特殊词元"},
    "text": {"en": "text", "zh": "文本"},
    "view": {"en": "{picture}.{view}", "zh": "{picture}.{view}"},
    "imported": {"en": "The conversation was read: {turns} questions.", "zh": "已读取对话：{turns} 个问题。"},
}


def say(name: str, language: str, /, **values: object) -> str:
    """A text of the page with its values."""
    return TEXTS[name][language].format(**values)


def language_of(accepted: str) -> str:
    """The page's language for a browser's Accept-Language: the first of ours that it names, else English."""
    for part in accepted.lower().split(","):
        for language in ("en", "zh"):
            if part.strip().startswith(language):
                return language
    return "en"
