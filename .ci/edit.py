"""A copy of a checkpoint with something changed. Usage: edit.py FROM TO CHANGE...
CHANGE: KEY=VALUE sets a setting, KEY= takes it out, TENSOR:nan puts a NaN into a tensor."""
import sys
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

source, target, *changes = sys.argv[1:]
tensors, settings = load_file(source), safe_open(source, "np").metadata()
for change in changes:
    if change.endswith(":nan"):
        tensors[change[:-4]].flat[0] = float("nan")
        continue
    key, value = change.split("=", 1)
    settings.pop(key, None)
    if value:
        settings[key] = value
save_file(tensors, target, settings)
