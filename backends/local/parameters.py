"""Parameters at the workers of this machine, by their engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from backends.adapting.names import OPENAI as OPENAI_NAMES
from backends.adapting.tools import ToolRules
from backends.parameters import OTHER_ANSWERS, ParameterTable, PictureRules

WORKER = ParameterTable(
    drops=frozenset({
        "user", "metadata", "store", "reasoning_effort", "min_tokens", "bit_rate", "chunking_strategy", "include",
        "known_speaker_names", "known_speaker_references", "languages",
    }),
    extras=frozenset(
        {
            "cache_prompt", "chat_template_kwargs", "dry_allowed_length", "dry_base", "dry_multiplier",
            "dry_penalty_last_n", "dry_sequence_breakers", "dynatemp_exponent", "dynatemp_range", "input_extra",
            "ignore_eos", "mirostat", "mirostat_eta", "mirostat_tau", "reasoning_format", "repeat_last_n",
            "top_n_sigma", "truncate", "xtc_probability", "xtc_threshold",
        }
    ),
    unknown_pass=False,
    takes_strict=True,
    marks=frozenset({"reasoning_content"}),
    unmarked=False,
    refuses=OTHER_ANSWERS,
    tools=ToolRules(names=OPENAI_NAMES, custom_tools=False, input_grammars=True),
)  # fmt: skip
"""llama-server and our own worker app. The backend sends ``grammar`` for every field of the answer's form,
``repeat_penalty`` for ``repetition_penalty``, and texts for ``stop_token_ids``. Source: llama.cpp's page on its
server."""

_LLAMA_ONLY = frozenset(
    {
        "cache_prompt", "input_extra", "dry_allowed_length", "dry_base", "dry_multiplier", "dry_penalty_last_n",
        "dry_sequence_breakers", "dynatemp_exponent", "dynatemp_range", "mirostat", "mirostat_eta",
        "mirostat_tau", "reasoning_format", "repeat_last_n", "top_n_sigma", "truncate",
    }
)  # fmt: skip

_VLLM_ONLY = frozenset(
    {
        "add_generation_prompt", "allowed_token_ids", "bad_words", "cache_salt", "continue_final_message",
        "include_reasoning", "priority", "repetition_detection", "skip_special_tokens",
        "spaces_between_special_tokens", "thinking_token_budget", "truncate_prompt_tokens", "truncation_side",
    }
)  # fmt: skip
"""Parameters beyond OpenAI's that vLLM 0.32 takes and that stay within the request. ``prompt_logprobs`` is not
among them, because vLLM refuses it in streams; nor is ``include_stop_str_in_output``, because the gateway cuts at
stop sequences."""

PAINTER = ParameterTable(
    drops=frozenset({"user", "style", "moderation"}),
    unknown_pass=False,
    pictures=PictureRules(format=False, own=True),
)
"""The engines that draw. They name by themselves what their model leaves without effect."""

_OWN_DECODING = frozenset({"min_tokens"})
"""Parameters of the engines that sample in our own loop; llama-server has nothing of the kind."""

ENGINES: Mapping[str, ParameterTable] = {
    "llamacpp": replace(WORKER, drops=WORKER.drops - {"reasoning_effort"}),
    "mlx": replace(
        WORKER,
        drops=(WORKER.drops - _OWN_DECODING) | {"typical_p"},
        extras=WORKER.extras - _LLAMA_ONLY,
        takes_strict=False,
    ),
    "vllm": ParameterTable(
        drops=frozenset({"user", "metadata", "store", "typical_p"}),
        extras=_VLLM_ONLY | {"chat_template_kwargs", "ignore_eos"},
        renames={"max_tokens": "max_completion_tokens"},
        unknown_pass=False,
        marks=WORKER.marks,
        unmarked=False,
        refuses=OTHER_ANSWERS,
        tools=replace(WORKER.tools, input_grammars=False),
    ),
    "llama-cpp-python": replace(
        WORKER,
        drops=WORKER.drops - _OWN_DECODING,
        extras=frozenset({"chat_template_kwargs", "ignore_eos"}),
        takes_strict=False,
    ),
    "apple": replace(
        WORKER,
        drops=WORKER.drops
        | {"frequency_penalty", "logit_bias", "min_p", "presence_penalty", "repetition_penalty", "typical_p"},
        extras=frozenset(),
        takes_strict=False,
        tools=replace(WORKER.tools, input_grammars=False),
    ),
    "whisper": replace(WORKER, drops=WORKER.drops - {"languages"}),
    "onnx-asr": replace(WORKER, drops=WORKER.drops | {"keywords", "prompt", "temperature", "vad_filter"}),
    "speakers": replace(
        WORKER,
        drops=(WORKER.drops - {"known_speaker_names", "known_speaker_references"}) | {"vad_filter"},
        extras=WORKER.extras | {"num_speakers"},
    ),
    "onnx": replace(WORKER, extras=WORKER.extras | {"token_counts"}),
    "diffusion-video": ParameterTable(drops=frozenset({"user"}), unknown_pass=False),
    "diffusion": PAINTER,
    "stable-diffusion-cpp": PAINTER,
    "onnx-painter": replace(
        PAINTER,
        drops=PAINTER.drops | {"quality", "partial_images", "negative_prompt", "steps", "guidance_scale"},
    ),
}
"""Engines whose parameters differ; the rest have :data:`WORKER`. For llama-server, the backend
turns an effort into arguments of the chat template."""


def table_of(engine: str | None) -> ParameterTable:
    """The table of a worker with this engine."""
    return ENGINES.get(engine or "", WORKER)
