"""Which prompts a pipeline's text encoders cut short, and by how much: seen in how it calls its tokenizers."""

from collections.abc import Sequence
from typing import Any, final

from .pipeline import Generator


@final
class _Watched:
    """A tokenizer that keeps the text and the limit of each call that cuts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.calls: list[tuple[Any, int | None]] = []

    def __call__(self, text: Any = None, *args: Any, **options: Any) -> Any:
        """Answer as the tokenizer does."""
        if options.get("truncation"):
            self.calls.append((text, options.get("max_length")))
        return self.tokenizer(text, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["tokenizer"], name)

    def __len__(self) -> int:
        return len(self.tokenizer)


def cuts(generator: Generator, prompts: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return, for each tokenizer that has a limit, the prompts that it cuts, with the number of tokens lost.

    One prompt is encoded to learn the limits and what the pipeline writes around it; the others are only counted.
    """
    pipe, probe = generator.pipe, f"{max(prompts, key=len)} "  # never encoded before, so it is not remembered
    names = [name for name in pipe.components if name.startswith("tokenizer") and pipe.components[name] is not None]
    watched = {name: _Watched(getattr(pipe, name)) for name in names}
    before = {name: pipe.__dict__[name] for name in names}
    pipe.__dict__.update(watched)
    try:
        generator.encode_prompts([probe])
    finally:
        pipe.__dict__.update(before)
    found = {}
    for name, spy in watched.items():
        if spy.calls:
            text, limit = spy.calls[0]
            limit = int(spy.tokenizer.model_max_length if limit is None else limit)
            around = _tokens(spy.tokenizer, text[0] if isinstance(text, list) else text) - _tokens(spy.tokenizer, probe)
            lost = {prompt: _tokens(spy.tokenizer, prompt) + around - limit for prompt in dict.fromkeys(prompts)}
            found[name] = {prompt: number for prompt, number in lost.items() if number > 0}
    return found


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)
