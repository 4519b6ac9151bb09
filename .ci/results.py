"""data/results.md: its blocks run, its lines of scikit-learn agree with `probe`, and so do its comparisons, in short.
Usage: results.py IJEPA FOLDER, in the repository's root"""
import csv, re, shutil, subprocess, sys
import numpy as np
from safetensors.numpy import load_file

ijepa, tmp = sys.argv[1:]
text = open("data/results.md").read()
N, M = 900, 225         # scenes for fitting, and for testing: those of `--data scenes:900`


def run(*command, **more):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def blocks(kind):
    return "".join(re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S))


# the page's own lines, with a small model in place of `make run`'s and fewer scenes
model = f"{tmp}/model"
small = f"--preset scenes --data scenes:{N} --steps 60 --warmup 1"
for name in ("data.txt", "health.csv", "probe.csv"):
    shutil.copy(f"run/{name}", tmp)
run(ijepa, "train", *small.split(), "--out", model, stderr=subprocess.DEVNULL)
open(f"{tmp}/few.py", "w").write(blocks("python"))
lines = blocks("sh")
for old, new in (("3000", str(N)), ("few.py", "run/few.py"), ("--model run ", "--model run/model "), ("run/", f"{tmp}/"),
                 ("./ijepa", ijepa), ("python3", sys.executable)):
    lines = lines.replace(old, new)
print(run("bash", "-e", "-x", "-c", lines))
made, shipped = (load_file(f"{folder}/model.safetensors") for folder in (f"{tmp}/trained", "data/trained"))
assert {k: (v.shape, v.dtype) for k, v in made.items()} == {k: (v.shape, v.dtype) for k, v in shipped.items()}


# probe's scores of the trained encoder and of raw pixels, all tasks, against scikit-learn's
def pixels(seed, n):
    run(ijepa, "render", "--images", n, "--seed", seed, "--out", f"{tmp}/scenes{seed}")
    files = [f"{tmp}/scenes{seed}/scene_{i:06d}.ppm" for i in range(n)]
    rgb = [np.frombuffer(open(name, "rb").read()[-3072:], np.uint8) for name in files]
    return ((np.stack(rgb).reshape(n, -1, 3) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).reshape(n, -1)


run(ijepa, "probe", "--model", model, "--data", f"scenes:{N}", "--out", f"{tmp}/probe.csv")
np.save(f"{tmp}/pixels.npy", np.concatenate([pixels(0, N), pixels(2, M)]))
np.save(f"{tmp}/pixels.labels.npy", np.load(f"{tmp}/features.labels.npy"))
probe = {(row["task"], row["score"]): row for row in csv.DictReader(open(f"{tmp}/probe.csv"))}
assert len(probe) == 6 and all(int(row["images"]) == M for row in probe.values()), probe
worst = 0
for who, name in (("trained", "features"), ("pixels", "pixels")):
    for number, task in enumerate(("count", "dist", "kind")):
        said = run(sys.executable, f"{tmp}/few.py", f"{tmp}/{name}", N, number)
        want = dict(line.split(": ") for line in said.splitlines())
        assert len(want) == 8, said
        for score, line in (("k-NN", "k-NN 20"), ("linear", "linear")):
            error = abs(float(probe[task, score][who]) - float(want[line])) * M / 100
            print(f"{who}, {task}, {score}: probe {probe[task, score][who]}, scikit-learn {want[line]}")
            worst = max(worst, error)
# equal similarities in float, equal votes in double: an image may fall to the other side
assert worst < 1.5, f"{worst} images of {M} judged otherwise"

# every `make compare` of the page, a few updates each, on smaller pictures with as many patches (the ridge on raw pixels
# is what takes time): a line for each name and each of the six scores
commands = re.findall(r"^make compare(?:.*\\\n)*.*$", text, re.M)
for number, command in enumerate(commands):
    settings = re.search('SETTINGS="(.*?)"', command, re.S)[1] if "SETTINGS=" in command else "--preset scenes"
    small = f'SETTINGS="{settings} --crop_size 16 --patch_size 4" DATA=scenes:400 BUDGET=0.004 SEEDS=0 IMAGES=50'
    rows = run("bash", "-c", f"{command} -s {small} OUT={tmp}/compare{number}", stderr=subprocess.DEVNULL).splitlines()
    print(command, *rows, sep="\n", flush=True)
    asked = len(re.search('ROWS="(.*?)"', command, re.S)[1].split(";")) if "ROWS=" in command else 3
    assert len(rows) == 1 + 6 * asked, rows
    assert all(len(re.findall(r" \d+\.\d(?= )", row[31:] + " ")) == 5 for row in rows[1:])     # four scores, minutes
assert len(commands) >= 10, commands
