"""What it costs to embed a prompt at a gateway and send its vectors, or to embed it again at each student.

A text encoder of the size of Stable Diffusion 1.x's, random weights. Prints its memory, milliseconds of a prompt with
one thread, the bytes of its vectors, and how long pickle and gRPC over loopback take for them.

    python benchmarks/prompt_vectors.py
"""

import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import torch
import transformers

from msd_ray.conditions import Embedded
from msd_ray.conditions.clip_text import ClipText

SIZE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TOKENS = 77


def write(root: Path) -> None:
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (root / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (root / "merges.txt").write_text("#version: 0.2\n")
    files = {"vocab": str(root / "vocab.json"), "merges": str(root / "merges.txt")}
    transformers.CLIPTokenizer(**files, model_max_length=TOKENS).save_pretrained(root / "tokenizer")
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    config = transformers.CLIPTextConfig(vocab_size=49408, max_position_embeddings=TOKENS, **SIZE, **ends)
    transformers.CLIPTextModel(config).save_pretrained(root / "text_encoder")


def seconds(work: Callable[[], Any], n: int) -> float:
    """The median of n times."""
    took = []
    for _ in range(n):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def over_grpc(message: bytes) -> float:
    def method(request: bytes, context: Any) -> bytes:
        return b""

    handler = grpc.method_handlers_generic_handler("X", {"Y": grpc.unary_unary_rpc_method_handler(method)})
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/X/Y")
        call(b"")
        took = seconds(lambda: call(message), 30) - seconds(lambda: call(b""), 30)
    server.stop(0)
    return took


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        clip, process = ClipText(folder, of_tokens=True), psutil.Process()
        tokens, before = clip.tokens(["a photo of a red heart on a table"]), process.memory_info().rss
        clip.both(tokens)
        more = process.memory_info().rss - before
        both = seconds(lambda: clip.both(tokens), 10)
        each = seconds(lambda: (clip.vectors(tokens), clip.embed(tokens)), 10)
        prompt = Embedded("a photo of a red heart on a table", clip.both(tokens)[0][0].numpy())
    message = pickle.dumps([(prompt, 1)], protocol=5)
    pickled = seconds(lambda: pickle.loads(pickle.dumps([(prompt, 1)], protocol=5)), 30)
    print(f"encoder: {more / 1e6:.0f} MB")
    print(f"a prompt: {1000 * both:.0f} ms, place and vectors one after the other {1000 * each:.0f} ms")
    sent = over_grpc(message)
    print(f"its vectors: {len(message)} bytes, {1000 * pickled:.2f} ms to pickle, {1000 * sent:.2f} ms over gRPC")


if __name__ == "__main__":
    main()
