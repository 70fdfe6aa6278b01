"""The arguments and settings that each engine makes of a spec."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.local.parameters import table_of
from backends.wire.chat import ChatRequest
from backends.wire.sampling import Sampling
from backends.workers.engines import llamacpp
from backends.workers.engines.llama_cpp_python import engine as llama_cpp_python
from backends.workers.engines.mlx import engine as mlx
from backends.workers.engines.vllm import engine as vllm
from backends.workers.spec import WorkerSpec
from catalog.errors import ConfigurationError
from catalog.model import Capability


def spec(**fields: Any) -> WorkerSpec:
    return WorkerSpec.model_validate(
        {
            "engine": "any",
            "model_id": "m",
            "path": "/models/m",
            "socket": "/run/1.sock",
            "api_key": "the-secret",
            "threads": 3,
            "slots": 4,
            "extra": 1,
            "context": 2048,
            "capabilities": frozenset({Capability.CHAT}),
            **fields,
        }
    )


def after(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


# ---- llama.cpp


def test_llamacpp_gives_every_slot_the_whole_context_and_never_shifts_it() -> None:
    parameters = llamacpp.parameters(spec())
    assert (parameters.n_ctx, parameters.n_parallel, parameters.kv_unified) == (8192, 4, False)
    assert not parameters.ctx_shift
    assert not parameters.fit_params
    assert parameters.hostnames == ["/run/1.sock"]
    assert parameters.api_keys == ["the-secret"]
    assert parameters.cpuparams.n_threads == 3
    assert parameters.n_threads_http >= 5
    assert not parameters.endpoint_props, "or a request could change the chat template"


def test_llamacpp_keeps_the_cpu_for_the_cpu_and_pins_an_accelerator() -> None:
    assert llamacpp.parameters(spec(device="cpu")).n_gpu_layers == 0
    pinned = llamacpp.parameters(spec(device="cuda:1"))
    assert (pinned.n_gpu_layers, pinned.main_gpu) == (-1, 1)


def test_llamacpp_takes_its_mode_from_what_the_model_can_do() -> None:
    embedding = frozenset({Capability.EMBED})
    embeds = llamacpp.parameters(spec(capabilities=embedding, options={"pooling": "mean"}))
    assert embeds.embedding
    assert "MEAN" in repr(embeds.pooling_type)
    assert embeds.n_ubatch >= 2048, "a text of the whole context is one batch"
    reranks = llamacpp.parameters(spec(capabilities=frozenset({Capability.RERANK})))
    assert reranks.embedding
    assert "RANK" in repr(reranks.pooling_type)
    assert not llamacpp.parameters(spec()).embedding


def test_llamacpp_takes_every_option_of_a_row(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    options = {
        "mmproj": "/models/mm.gguf",
        "cache_type_k": "q8_0",
        "flash_attention": "on",
        "lora": [{"path": "/models/lora.gguf", "scale": 0.5}],
        "draft": "/models/draft.gguf",
        "chat_template_file": str(template),
        "prompt_cache_mib": 0,
        "rope_freq_base": 1e6,
    }
    parameters = llamacpp.parameters(spec(options=options))
    assert parameters.mmproj.path == "/models/mm.gguf"
    assert "Q8_0" in repr(parameters.cache_type_k)
    assert "ENABLED" in repr(parameters.flash_attn_type)
    assert [(a.path, a.scale) for a in parameters.lora_adapters] == [("/models/lora.gguf", 0.5)]
    assert parameters.speculative.draft.mparams.path == "/models/draft.gguf"
    assert parameters.chat_template == "{{ messages }}"
    assert parameters.rope_freq_base == 1e6


@pytest.mark.parametrize(
    ("options", "named"),
    [({"contxt": 1}, "contxt"), ({"cache_type_k": "q9"}, "cache_type_k"), ({"slots": 0}, "slots")],
)
def test_an_option_that_is_wrong_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        llamacpp.parameters(spec(options=options))
    with pytest.raises(ConfigurationError, match="engine vllm"):
        vllm.arguments(spec(options={"contxt": 1}))
    with pytest.raises(ConfigurationError, match="engine mlx"):
        mlx.MlxEngine(spec(options={"contxt": 1}))
    with pytest.raises(ConfigurationError, match="engine llama-cpp-python"):
        llama_cpp_python.model_settings(spec(options={"contxt": 1}))


def test_llamacpp_finds_the_cause_of_a_failed_start_in_its_log() -> None:
    log = (
        "0.00.009 I srv  init: initializing ...\n"
        "0.00.010 E common_fit_params: encountered an error while trying to fit params to free device memory\n"
        "0.00.010 E gguf_init_from_reader: bad GGUF version: 0\n"
        "0.00.011 E srv  load_model: failed to load model\n"
    )
    assert llamacpp.explain(log) == "gguf_init_from_reader: bad GGUF version: 0"
    assert llamacpp.explain("nothing of note\n") is None


# ---- vLLM


def test_vllm_listens_on_the_socket_and_keeps_its_key_off_the_command_line() -> None:
    arguments = vllm.arguments(
        spec(device="cuda:1", options={"tool_call_parser": "hermes", "quantization": "awq"})
    )
    assert arguments[:4] == ["serve", "/models/m", "--uds", "/run/1.sock"]
    assert after(arguments, "--served-model-name") == "m"
    assert after(arguments, "--max-model-len") == "2048"
    assert after(arguments, "--max-num-seqs") == "5"
    assert after(arguments, "--quantization") == "awq"
    assert "--enable-auto-tool-choice" in arguments
    assert "the-secret" not in " ".join(arguments)
    added = vllm.environment(spec(device="cuda:1"))
    assert added["VLLM_API_KEY"] == "the-secret"
    assert added["CUDA_VISIBLE_DEVICES"] == "1"


VLLM = json.loads((Path(__file__).parents[3] / "data" / "vllm.json").read_text())
"""The parameters, arguments and parsers of vLLM 0.32.0, read from its source."""


def test_every_argument_and_parameter_is_one_that_vllm_has() -> None:
    options = {
        "quantization": "awq",
        "kv_cache_dtype": "fp8",
        "tool_call_parser": "hermes",
        "reasoning_parser": "qwen3",
        "enforce_eager": True,
        "prefix_caching": False,
        "scheduling_policy": "priority",
        "tokenizer": "/t",
        "chat_template_file": "/c.jinja",
    }
    arguments = vllm.arguments(spec(device="cuda:1", options=options))
    flags = {argument for argument in arguments if argument.startswith("--")}
    assert len(flags) > 18
    assert {flag.replace("--no-", "--") for flag in flags} <= set(VLLM["flags"])
    table = table_of("vllm")
    assert table.extras <= set(VLLM["chat"])
    renamed = {"repeat_penalty": "repetition_penalty", **table.renames}
    of_form = {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar"}
    of_gateway = {"web_search_options", "metadata", *of_form}
    for request in (ChatRequest, Sampling):
        sent = request.model_fields.keys() - table.drops - of_gateway
        assert {renamed.get(name, name) for name in sent} <= set(VLLM["chat"])
    assert {"hermes", "llama3_json", "qwen3_coder"} <= set(VLLM["tool_parsers"])


def test_vllm_over_several_devices_sees_them_all() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in vllm.environment(
        spec(device="cuda:0", options={"tensor_parallel_size": 2})
    )


def test_vllm_on_the_cpu_is_told_its_cache() -> None:
    arguments = vllm.arguments(spec(device="cpu"))
    assert "--gpu-memory-utilization" not in arguments
    assert vllm.environment(spec(options={"cpu_kv_cache_gib": 1}))["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_vllms_log_tells_the_cause() -> None:
    log = "(APIServer pid=7) INFO starting\nTraceback (most recent call last):\nValueError: no such model\nbye\n"
    assert vllm.explain(log) == "ValueError: no such model"
    assert vllm.explain("INFO fine") is None


def test_health_of_a_socket_that_nobody_listens_on() -> None:
    assert not vllm.healthy("/nowhere/at/all.sock")


# ---- llama-cpp-python


def test_llama_cpp_python_gets_the_models_settings() -> None:
    settings = llama_cpp_python.model_settings(spec())
    assert settings["model_path"] == "/models/m"
    assert settings["n_ctx"] == 2048
    assert settings["n_gpu_layers"] == 0
    assert llama_cpp_python.model_settings(spec(device="cuda:0"))["n_gpu_layers"] == -1


@pytest.mark.parametrize(
    "engine", [llamacpp.parameters, vllm.arguments, mlx.MlxEngine, llama_cpp_python.model_settings]
)
def test_an_engine_of_files_wants_a_file(engine: Any) -> None:
    with pytest.raises(ConfigurationError, match="names none"):
        engine(spec(path=None))


def test_importing_an_engine_imports_no_inference_library() -> None:
    script = (
        "import sys\n"
        "from backends.workers.engines import llama_cpp_python, llamacpp, mlx, vllm\n"
        "assert not {'xllamacpp', 'vllm', 'mlx_lm', 'llama_cpp', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
