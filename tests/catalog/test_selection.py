"""Selection of the files of a repository that make one model."""

from __future__ import annotations

import pytest

from catalog.errors import PullError
from catalog.selection import Kind, RemoteFile, Selection, select


def chosen(*names: str, **how: object) -> Selection:
    files = [RemoteFile(name, size=(index + 1) * 1000) for index, name in enumerate(names)]
    return select(files, **how)  # type: ignore[arg-type]


def names(selection: Selection) -> list[str]:
    return sorted(file.name for file in selection.files)


def test_a_split_model_of_which_a_part_is_missing_is_none() -> None:
    with pytest.raises(PullError, match="There are: none"):
        chosen("m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf")
    found = chosen("m-Q4_0.gguf", "m-Q8_0-00001-of-00002.gguf", pattern=None)
    assert names(found) == ["m-Q4_0.gguf"]


def test_a_miss_says_what_there_is() -> None:
    with pytest.raises(PullError, match=r"'Q6_K'.*There are: Q4_0, Q8_0"):
        chosen("m-Q4_0.gguf", "m-Q8_0.gguf", pattern="Q6_K")


@pytest.mark.parametrize("pattern", ["Q4_K_M", "q4_k_m", "*Q4_K_M*", "m-Q4_K_M.gguf", "*q4_k_m.gguf"])
def test_a_pattern_is_a_quantisation_a_file_or_a_glob(pattern: str) -> None:
    assert chosen("m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-UD-Q4_K_M.gguf", pattern=pattern).entry.startswith("m-")
    assert chosen("m-Q4_K_M.gguf", "m-Q4_K_S.gguf", pattern=pattern).quantization == "Q4_K_M"


def test_a_folder_is_a_pattern_too() -> None:
    assert names(chosen("a/m-Q8_0.gguf", "b/m-Q8_0.gguf", pattern="a")) == ["a/m-Q8_0.gguf"]


def test_f16_asked_for_is_not_answered_with_bf16() -> None:
    assert chosen("m-F16.gguf", "m-BF16.gguf", pattern="F16").entry == "m-F16.gguf"
    assert chosen("m-F16.gguf", "m-BF16.gguf", pattern="BF16").entry == "m-BF16.gguf"


def test_importance_matrices_and_projectors_are_no_models() -> None:
    found = chosen("mmproj-BF16.gguf", "m-Q4_0.gguf", "mmproj-F16.gguf", "m-imatrix.gguf")
    assert found.entry == "m-Q4_0.gguf"
    assert found.projector == "mmproj-F16.gguf"


def test_an_onnx_repository_gives_its_graph_and_tokenizer() -> None:
    found = chosen(
        "onnx/model.onnx", "tokenizer.json", "config.json", "pytorch_model.bin", "1_Pooling/config.json"
    )
    assert found.kind is Kind.ONNX
    assert names(found) == ["1_Pooling/config.json", "config.json", "onnx/model.onnx", "tokenizer.json"]
    assert "model.onnx" in {file.local for file in found.files}
    assert found.entry == "."


def test_a_faster_whisper_repository_is_known() -> None:
    found = chosen("model.bin", "config.json", "vocabulary.txt", "tokenizer.json", "README.md")
    assert found.kind is Kind.WHISPER
    assert names(found) == ["config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]


def test_safetensors_come_with_their_configuration_and_without_pickles() -> None:
    found = chosen("model.safetensors", "config.json", "tokenizer.json", "pytorch_model.bin", "run.py")
    assert found.kind is Kind.TRANSFORMERS
    assert names(found) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_pipeline_of_diffusers_comes_with_the_folders_of_its_components() -> None:
    found = chosen(
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model-00001-of-00002.safetensors", "vae/model.non_ema.safetensors",
        "tokenizer/merges.txt", "scheduler/scheduler_config.json", "sd_xl_base_1.0.safetensors",
        "onnx/unet/config.json", "README.md",
    )  # fmt: skip
    assert found.kind is Kind.DIFFUSERS
    assert names(found) == [
        "model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
    ]  # fmt: skip


def test_a_pipeline_with_only_pickles_is_refused() -> None:
    with pytest.raises(PullError, match="no safetensors"):
        chosen("model_index.json", "unet/diffusion_pytorch_model.bin")


def test_files_that_a_row_names_are_taken_as_they_are_into_one_folder() -> None:
    files = [RemoteFile(name, 1) for name in ("onnx/voice.onnx", "voices.bin", "other.onnx")]
    found = select(files, only=["voice.onnx", "voices.bin"])
    assert found.kind is Kind.FILES
    assert [file.local for file in found.files] == ["voice.onnx", "voices.bin"]
    with pytest.raises(PullError, match=r"no file 'gone\.onnx', which the model needs"):
        select(files, only=["gone.onnx"])


def test_a_repository_with_only_pickles_is_refused() -> None:
    with pytest.raises(PullError, match="no model that can be run"):
        chosen("pytorch_model.bin", "config.json")


@pytest.mark.parametrize("name", ["../m.gguf", "/m.gguf", "a/../../m.gguf", "a\\m.gguf", "C:m.gguf", "m\n.gguf"])
def test_a_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(PullError, match="refused"):
        chosen(name)
