"""`probe --full` against scikit-learn, on the same features and the same draws. Usage: probe.py IJEPA MODEL FOLDER"""
import json, re, subprocess, sys
import numpy as np, torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

ijepa, model, tmp = sys.argv[1:]
N, M = 900, 225
LAMBDA = (1e-4, 1e-3, 1e-2, 0.1, 1, 10)
run = lambda *a: subprocess.run([ijepa, *map(str, a)], check=True, capture_output=True, text=True).stdout
probe = json.loads(run("probe", "--model", model, "--data", f"scenes:{N}", "--full", "--json"))
x, y = {}, []
for part, seed, n in (("train", 0, N), ("test", 2, M)):
    run("render", "--out", f"{tmp}/{part}", "--images", n, "--seed", seed)
    run("features", "--model", model, "--data", f"{tmp}/{part}", "--out", f"{tmp}/one.npy")
    run("features", "--model", model, "--data", f"{tmp}/{part}", "--out", f"{tmp}/four.npy", "--last4")
    x["trained", part], x["trained last 4", part] = np.load(f"{tmp}/one.npy"), np.load(f"{tmp}/four.npy")
    rgb = np.stack([np.frombuffer(open(f"{tmp}/{part}/scene_{i:06d}.ppm", "rb").read()[-3072:], np.uint8) for i in range(n)]).astype(float)
    x["pixels", part] = ((rgb.reshape(n, -1, 3) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).reshape(n, -1)
    y.append(np.genfromtxt(f"{tmp}/{part}/labels.csv", delimiter=",", skip_header=1, usecols=(1, 2, 3)).astype(int))


def knn(k, a, ya, b, yb):
    votes = lambda d: np.exp((d.min(1, keepdims=True) - d) / 0.07)
    return KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=votes).fit(a, ya).score(b, yb)


def linear(a, ya, b, yb):
    hot, held = np.eye(10)[ya], np.arange(len(a)) % 5 == 4
    fit = lambda alpha, rows: Ridge(alpha=alpha, solver="cholesky").fit(a[rows], hot[rows])
    right = [(fit(l * (~held).sum(), ~held).predict(a[held]).argmax(1) == ya[held]).sum() if held.any() else 0 for l in LAMBDA]
    return (fit(LAMBDA[int(np.argmax(right))] * len(a), slice(None)).predict(b).argmax(1) == yb).mean()


worst, compared = {}, 0
for t, task in enumerate(("count", "dist", "kind")):
    ya, yb = y[0][:, t], y[1][:, t]
    for who in ("trained", "pixels") if t == 0 else ("trained",):
        for name, got in probe["tasks"][task][who].items():
            spread = None
            if isinstance(got, list):
                got, spread = got
            key = who + " last 4" if "last 4" in name else who
            a, b = x[key, "train"].astype(float), x[key, "test"].astype(float)
            if "not standardised" not in name:
                std = np.where(a.std(0) > 0, a.std(0), np.inf)
                a, b = (a - x[key, "train"].astype(float).mean(0)) / std, (b - x[key, "train"].astype(float).mean(0)) / std
            if "knn" in name or "k-NN" in name:
                k = int((re.findall(r"k-NN (\d+)", name) or [20])[0])
                want = [knn(k, a, ya, b, yb)]
            elif "labels" in name or "per class" in name:
                want = []
                for draw in range(5):
                    order = torch.randperm(N, generator=torch.Generator().manual_seed(draw)).numpy()
                    if "labels" in name:
                        few = order[: int(np.ceil(N * float(re.findall(r"(\d+) %", name)[0]) / 100))]
                    else:
                        few = np.array([i for n, i in enumerate(order) if (ya[order[:n]] == ya[i]).sum() < 10])
                    want.append(linear(a[few], ya[few], b, yb))
            else:
                want = [linear(a, ya, b, yb)]
            error = abs(100 * np.mean(want) - got) * M / 100 * len(want)      # in images
            worst[name] = max(worst.get(name, 0), error)
            compared += 1
            p = np.mean(want)
            expect = 100 * np.std(want, ddof=1) if len(want) > 1 else 196 * np.sqrt(p * (1 - p) / M)
            assert spread is None or abs(expect - spread) < 0.6, (task, who, name, expect, spread)
for name, error in worst.items():
    print(f"{name}: at most {error:.2f} images of {M} judged otherwise")
# equal similarities in float, equal votes in double: a few images may fall to the other side
assert compared >= 46 and max(worst.values()) < 1.5, worst
