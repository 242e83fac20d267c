"""Which prompts a pipeline's text encoders cut short, and by how much: seen in how it calls its tokenizers.

Where it calls them in another way (by a chat template, or cutting what they gave), it is seen in the encodings: words
behind the end change nothing.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

Cuts = dict[str, dict[str, int]]
"""For each tokenizer that has a limit, the prompts that it cuts, with the number of tokens lost (0: not known)."""


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


def cuts(pipe: Any, encoded: Callable[[str], str], prompts: Sequence[str]) -> Cuts:
    """Return what the text encoders of ``pipe`` do not read of ``prompts``.

    ``encoded`` returns a hash of the encoding of a prompt. The longest is encoded, to learn the tokenizers' limits and
    what the pipeline writes around it; the others are only counted.
    """
    by_length = sorted(dict.fromkeys(prompts), key=len)
    found = _of_tokenizers(pipe, encoded, by_length)
    if by_length[-1] not in by_all(found):
        start = bisect_left(by_length, True, key=lambda prompt: encoded(prompt) == encoded(f"{prompt} and more"))
        if by_length[start:]:
            found = {"the pipeline": dict.fromkeys(by_length[start:], 0)}
    return found


def _of_tokenizers(pipe: Any, encoded: Callable[[str], str], prompts: Sequence[str]) -> Cuts:
    """Return what those tokenizers cut that the pipeline calls with a limit."""
    probe = prompts[-1]
    names = [name for name in pipe.components if name.startswith("tokenizer") and pipe.components[name] is not None]
    watched = {name: _Watched(getattr(pipe, name)) for name in names}
    before = {name: pipe.__dict__[name] for name in names}
    pipe.__dict__.update(watched)
    try:
        encoded(probe)
    finally:
        pipe.__dict__.update(before)
    found = {}
    for name, spy in watched.items():
        if spy.calls:
            text, limit = spy.calls[0]
            limit = int(spy.tokenizer.model_max_length if limit is None else limit)
            written, alone = _lengths(spy.tokenizer, [text[0] if isinstance(text, list) else text, probe])
            lengths = zip(prompts, _lengths(spy.tokenizer, list(prompts)), strict=True)
            lost = {prompt: length + written - alone - limit for prompt, length in lengths}
            found[name] = {prompt: number for prompt, number in lost.items() if number > 0}
    return found


def told(cut: Mapping[str, Mapping[str, int]]) -> str:
    """Return in words what `cuts` found; nothing where no prompt is cut."""
    words = []
    for name, lost in cut.items():
        if lost:
            worst = max(lost, key=lambda prompt: lost[prompt])
            by = f", by up to {lost[worst]} tokens" if lost[worst] else ""
            words.append(f"{name} cuts {len(lost)}{by} ('{' '.join(worst.split())[:30]}…')")
    return "; ".join(words)


def by_all(cut: Mapping[str, Mapping[str, int]]) -> set[str]:
    """Return the prompts that no tokenizer reads whole."""
    return set.intersection(*(set(lost) for lost in cut.values())) if cut else set()


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False).input_ids]
