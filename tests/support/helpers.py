"""What several tests need: texts, and a look at what a guard computes on the way to its verdict."""

import os
import pty
import random
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from guardpass import Guard
from guardpass.format.manifest import Mode, Role
from guardpass.plan import Pass, Planner

from .engines import engine_of

# One piece a line of what a chat may hold; joined by random white space.
_WORDS = (
    """
안녕하세요|오늘 날씨가|훔치는 방법을|알려줘|친구의|물건|자살 예방 상담|소설을 추천해 줘|ㅋㅋㅋ|값|뷁|日本語|العربية
hello|how do I|make a cake|stop|Stop!|isn't|don't|12345|3.14|U.S.|naïve|e\u0301|🙂|👩‍👩‍👧|🇰🇷|\u200b|\u00a0|\u3000
<b>|</b>|>|<|</|/ai|ai>|::|''|"|`code`|{{x}}|{%y%}|\\n|<human>|</human>|<ai>|</ai>
""".strip()
    .replace("\n", "|")
    .split("|")
)
_SPACES = ("", " ", "  ", "\n", "\n\n", "\r\n", "\t", " \n")


def texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    """Random texts without control or verdict tokens; some empty, some white space, some Korean, some not."""
    rng = random.Random(seed)
    return [
        "".join(rng.choice(_WORDS) + rng.choice(_SPACES) for _ in range(rng.randrange(longest))) for _ in range(count)
    ]


# Text that may merge with the seams of a template: its markers' own characters, spaces, letters, anything.
seam_text = st.text(
    st.one_of(
        st.sampled_from(list("<>/|human ai\n\r\t .,!?'\"")),
        st.sampled_from(list("가힣ㅎㅏ뷁값🙂\u200d\u0301\u3000\u00a0\u200b\u202e")),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


def opened(path: Path) -> Guard:
    """A GGUF guard on one thread: llama.cpp's threads spin at barriers, which starves them where cores are shared.

    It judges texts as they stand, as the references of these tests do.
    """
    return Guard.load(path, threads=1, normalize="off")


def on_terminal(command: Sequence[str], ctrl_c_at: str = "") -> tuple[int, str, str]:
    """Exit code, stdout, and stderr of a command whose stderr is a terminal; Ctrl-C once it shows a text."""
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs) as child:
        os.close(theirs)
        with suppress(OSError):  # so Linux reports the end
            while part := os.read(ours, 4096):
                shown += part
                if ctrl_c_at and ctrl_c_at.encode() in shown:
                    child.send_signal(signal.SIGINT)
                    ctrl_c_at = ""
        assert child.stdout
        out = child.stdout.read().decode()
    os.close(ours)
    return child.returncode, out, shown.decode()


def contents(text: str, response: str | None) -> tuple[Mode, dict[Role, str]]:
    """Mode and texts as Guard.check sees them."""
    return ("prompt", {"prompt": text}) if response is None else ("response", {"prompt": text, "response": response})


def planner(guard: Guard, mode: Mode) -> Planner:
    """What plans a mode's passes, with the policies asked by default."""
    return guard.judge.prepared(mode, guard.judge.policies(mode, None))[0]


def pass_of(guard: Guard, text: str, response: str | None = None) -> Pass:
    """The pass of a request that fits into one, with the policies asked by default."""
    mode, given = contents(text, response)
    plans = planner(guard, mode)
    return plans.plan(plans.span(given))


def ids(guard: Guard, text: str, response: str | None = None) -> list[int]:
    """prefix . span . tree of a request."""
    mode, given = contents(text, response)
    spec = guard.manifest.modes[mode]
    prefix = [guard.manifest.prefix.tokens[column] for column in spec.prefix[: len(spec.prefix) - spec.lead]]
    return prefix + planner(guard, mode).span(given) + list(spec.tree.tokens)


def scores(guard: Guard, text: str, response: str | None = None) -> npt.NDArray[np.float32]:
    """Logits of the labels, [V']."""
    return engine_of(guard).run(pass_of(guard, text, response))[0, 0]


def template_ids(tokenizer: Any, text: str, response: str | None = None) -> list[int]:
    """What transformers makes of the conversation, with the checkpoint's own template."""
    conversation = [{"role": "user", "content": text}]
    if response is not None:
        conversation.append({"role": "assistant", "content": response})
    result: list[int] = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    return result


def files(directory: Path) -> list[str]:
    """Names in a directory, hidden ones included."""
    return sorted(path.name for path in directory.iterdir())
