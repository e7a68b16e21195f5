"""The page's layout, and which handler each click calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import gradio

from beholder.serving.web.client import Client
from beholder.serving.web.conversation import Conversation
from beholder.serving.web.examples import example_questions
from beholder.serving.web.handlers import Handlers
from beholder.serving.web.showing import Shelf
from beholder.serving.web.texts import LANGUAGES, TEXTS, language_of, say

PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"]
LARGEST = 2**31 - 1  # Gradio turns longer pasted text into a file; nothing typed may become something else
SWITCH_DARK = "() => { document.body.classList.toggle('dark'); }"
SAVE = """(text) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'conversation.json';
  link.click();
  URL.revokeObjectURL(link.href);
}"""

# Browsers keep the clipboard from pages without TLS, except on the own machine: those copy a selection.
COPY = """async (text) => {
  if (navigator.clipboard) return void await navigator.clipboard.writeText(text);
  const area = document.createElement('textarea');
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}"""


@dataclass
class Words:
    """Which component has which text, so that the language can be changed."""

    placed: list[tuple[Any, dict[str, str]]] = field(default_factory=list[tuple[Any, dict[str, str]]])

    def on(self, component: Any, **names: str) -> Any:
        """Give a component texts by property, in English for now."""
        for name, text in names.items():
            setattr(component, name, say(text, "en"))
        self.placed.append((component, names))
        return component

    def updates(self, language: str) -> list[Any]:
        """All of them in a language."""
        return [
            gradio.update(**dict[str, Any]({name: TEXTS[text][language] for name, text in names.items()}))
            for _, names in self.placed
        ]


class Page:
    """Everything on the page, by name."""

    def __init__(self, client: Client) -> None:
        self.shelf = Shelf()
        self.handlers = Handlers(client, self.shelf)
        self.words = Words()
        with gradio.Blocks(
            analytics_enabled=False, title="Beholder", fill_height=True, delete_cache=(3600, 24 * 3600)
        ) as self.blocks:
            self._head()
            self._settings()
            with gradio.Tabs():
                with self.words.on(gradio.Tab(id="chat"), label="chat"):
                    self._chat()
                with self.words.on(gradio.Tab(id="compare"), label="compare"):
                    self._compare()
                with self.words.on(gradio.Tab(id="explain"), label="explain"):
                    self._explain()
            self._wire_models()
            self._wire_chat()
            self._wire_compare()
            self._wire_rest()
        self.blocks.queue(default_concurrency_limit=None, api_open=False)

    def _head(self) -> None:
        on = self.words.on
        with gradio.Row():
            with gradio.Column(min_width=220):  # or a phone's narrow row sets the title letter below letter
                self.title = gradio.Markdown("# Beholder", elem_id="title")
            self.language_name = on(
                gradio.Radio(list(LANGUAGES), value="English", elem_id="language", min_width=160),
                label="language",
            )
            self.dark = on(gradio.Button(size="sm", min_width=120, elem_id="dark"), value="dark")
        self.language = gradio.State("en")
        self.facts = gradio.State({})
        with gradio.Row():
            self.model = on(
                gradio.Dropdown(choices=[], value=None, elem_id="model", scale=3, min_width=200),
                label="model",
            )
            self.refresh = on(gradio.Button(size="sm", min_width=120, elem_id="refresh"), value="refresh")
        self.model_note = gradio.HTML(elem_id="model-note")

    def _settings(self) -> None:
        on = self.words.on
        with on(gradio.Accordion(open=False, elem_id="settings"), label="settings"):
            self.system = on(
                gradio.Textbox(value="", lines=2, elem_id="system"), label="system", info="system_info"
            )
            with gradio.Row():
                self.temperature = on(
                    gradio.Slider(0, 2, value=0, step=0.05, elem_id="temperature"),
                    label="temperature", info="temperature_info",
                )  # fmt: skip
                self.top_p = on(gradio.Slider(0.01, 1, value=1, step=0.01, elem_id="top-p"), label="top_p")
            with gradio.Row():
                self.top_k = on(
                    gradio.Number(value=0, precision=0, minimum=0, elem_id="top-k"), label="top_k"
                )
                self.max_tokens = on(
                    gradio.Number(value=512, precision=0, minimum=1, elem_id="max-tokens"), label="max_tokens"
                )
                self.template = on(
                    gradio.Dropdown(choices=[], value=None, visible=False, elem_id="template"),
                    label="template",
                )
                self.key = on(
                    gradio.Textbox(value="", type="password", elem_id="key"), label="key", info="key_info"
                )

    def _box(self, name: str) -> Any:
        """A text box that takes pictures by choosing, pasting and dropping."""
        box = gradio.MultimodalTextbox(
            file_types=PICTURES, file_count="multiple", sources=["upload"], lines=1, max_lines=12,
            elem_id=name, max_plain_text_length=LARGEST, show_label=False,
        )  # fmt: skip
        return self.words.on(box, label="box", placeholder="placeholder")

    def _chatbot(self, name: str, label: str, **more: Any) -> Any:
        made = gradio.Chatbot(
            height="56vh", elem_id=name, buttons=[], render_markdown=False,
            feedback_options=None, layout="bubble", **more,
        )  # fmt: skip
        return self.words.on(made, label=label)

    def _chat(self) -> None:
        on = self.words.on
        self.held = gradio.State(Conversation())
        # Grouped with its pictures, a question could not be edited: Gradio takes the pictures for texts too.
        self.chatbot = self._chatbot("chat", "chat", editable="user", group_consecutive_messages=False)
        self.note = gradio.HTML(elem_id="note")
        self.box = self._box("box")
        with gradio.Row():
            small: dict[str, Any] = {"size": "sm", "min_width": 90}
            self.stop = on(
                gradio.Button(interactive=False, variant="stop", elem_id="stop", **small), value="stop"
            )
            self.again = on(gradio.Button(elem_id="again", **small), value="again")
            self.edit = on(gradio.Button(elem_id="edit", **small), value="edit")
            self.copy = on(gradio.Button(elem_id="copy", **small), value="copy")
            self.clear = on(gradio.Button(elem_id="clear", **small), value="clear")
            self.export = on(gradio.Button(elem_id="export", **small), value="export")
            self.imports = on(
                gradio.UploadButton(file_types=[".json"], type="binary", elem_id="import", **small),
                label="import",
            )
        self.exported = gradio.Textbox(visible="hidden")
        self.copied = gradio.Textbox(visible="hidden")
        with on(gradio.Accordion(open=False, elem_id="camera-fold"), label="camera"):
            self.camera = on(
                gradio.Image(
                    sources=["webcam"], type="filepath", elem_id="camera", height=280, format="png",
                    webcam_options=gradio.WebcamOptions(mirror=False),
                ),
                label="camera",
            )  # fmt: skip
        examples = [[example] for example in example_questions(self.shelf)]
        made: Any = gradio.Examples  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self.examples = made(examples, [self.box], label=say("examples", "en"))
        self.words.placed.append((self.examples.dataset, {"label": "examples"}))

    def _compare(self) -> None:
        on = self.words.on
        self.lefts, self.rights = gradio.State(Conversation()), gradio.State(Conversation())
        with gradio.Row():
            with gradio.Column(min_width=300):
                self.left_model = on(gradio.Dropdown(choices=[], elem_id="left-model"), label="model_left")
                self.left = self._chatbot("left", "model_left")
                self.left_note = gradio.HTML(elem_id="left-note")
            with gradio.Column(min_width=300):
                self.right_model = on(gradio.Dropdown(choices=[], elem_id="right-model"), label="model_right")
                self.right = self._chatbot("right", "model_right")
                self.right_note = gradio.HTML(elem_id="right-note")
        self.both = self._box("both")
        with gradio.Row():
            self.both_stop = on(
                gradio.Button(interactive=False, variant="stop", size="sm", elem_id="both-stop"), value="stop"
            )
            self.both_clear = on(gradio.Button(size="sm", elem_id="both-clear"), value="clear")

    def _explain(self) -> None:
        on = self.words.on
        self.explain = on(gradio.Button(elem_id="show-explain"), value="show_explain")
        self.explain_note = gradio.HTML(elem_id="explain-note")
        self.counts = gradio.Markdown(elem_id="counts")
        self.prompt = on(gradio.HTML(elem_id="prompt", show_label=True, container=True), label="prompt")
        on(gradio.Markdown(), value="views")
        self.views = gradio.Gallery(
            columns=5, height="auto", object_fit="contain", format="png", show_label=False, elem_id="views"
        )

    @property
    def wanted(self) -> list[Any]:
        """The settings, in the order of `Wanted`."""
        return [self.model, *self.common]

    @property
    def common(self) -> list[Any]:
        """The settings that do not name a model."""
        return [
            self.system, self.template, self.temperature, self.top_p, self.top_k, self.max_tokens, self.key,
            self.language,
        ]  # fmt: skip

    def _wire_models(self) -> None:
        do = self.handlers
        shown = [self.model, self.model_note, self.facts, self.left_model, self.right_model, self.template]
        given = [self.key, self.model, self.left_model, self.right_model, self.language]
        words = [component for component, _ in self.words.placed]

        def greet(request: gradio.Request) -> list[Any]:
            headers = cast("Mapping[str, str]", request.headers)  # pyright: ignore[reportUnknownMemberType]
            language = language_of(headers.get("accept-language", ""))
            name = next(name for name, code in LANGUAGES.items() if code == language)
            return [language, name, *self.words.updates(language)]

        def speak(name: str) -> list[Any]:
            return [LANGUAGES[name], *self.words.updates(LANGUAGES[name])]

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.blocks.load(greet, None, [self.language, self.language_name, *words], **private).then(
            do.models, given, shown, **private
        )
        self.language_name.input(speak, [self.language_name], [self.language, *words], **private).then(
            do.models, given, shown, **private
        )
        self.refresh.click(do.models, given, shown, **private)
        self.key.blur(do.models, given, shown, **private)
        chosen = [self.model, self.facts, self.language]
        self.model.input(do.chosen, chosen, [self.model_note, self.template], **private)
        self.dark.click(None, js=SWITCH_DARK, api_visibility="private")

    def _wire_chat(self) -> None:
        do = self.handlers
        shown = [self.chatbot, self.held, self.box, self.note, self.stop]
        held = [self.held, *self.wanted]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.box.submit(do.submit, [self.box, *held], shown, **private)
        self.again.click(do.again, held, shown, **private)
        self.chatbot.retry(do.retry, held, shown, **private)
        self.chatbot.edit(do.edited, [self.box, *held], shown, **private)
        # What is shown after a stop reads the conversation once the answer has ended: the stop comes first.
        standing = [self.held, self.box, self.language]
        self.stop.click(do.stop, None, None, **private).then(do.stopped, standing, shown, **private)
        self.edit.click(do.stop, None, None, **private).then(do.edit, standing, shown, **private)
        self.clear.click(do.stop, None, None, **private).then(do.cleared, None, shown, **private)
        self.chatbot.clear(do.stop, None, None, **private).then(do.cleared, None, shown, **private)

    def _wire_compare(self) -> None:
        do = self.handlers
        sides = [self.left, self.right, self.lefts, self.rights]
        shown = [*sides, self.both, self.left_note, self.right_note, self.both_stop]
        given = [self.both, self.lefts, self.rights, self.left_model, self.right_model, *self.common]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.both.submit(do.compare, given, shown, **private)
        standing = [self.lefts, self.rights, self.language]
        stopping = self.both_stop.click(do.compare_stop, None, None, **private)
        stopping.then(do.compare_stopped, standing, shown, **private)
        clearing = self.both_clear.click(do.compare_stop, None, None, **private)
        clearing.then(do.compare_cleared, None, shown, **private)

    def _wire_rest(self) -> None:
        do = self.handlers
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.export.click(do.exported, [self.held, self.system], [self.exported], **private).then(
            None, [self.exported], None, js=SAVE, api_visibility="private"
        )
        self.copy.click(do.copied, [self.held], [self.copied], **private).then(
            None, [self.copied], None, js=COPY, api_visibility="private"
        )
        self.imports.upload(
            do.imported,
            [self.imports, self.held, self.language],
            [self.chatbot, self.held, self.note, self.system],
            **private,
        )
        self.camera.change(do.photographed, [self.camera, self.box], [self.box, self.camera], **private)
        self.explain.click(
            do.explain, [self.held, *self.wanted],
            [self.counts, self.prompt, self.views, self.explain_note], **private,
        )  # fmt: skip
