"""The page in a headless Chromium, opened as a file: it predicts, trains, shows runs, with the
program's own numbers; no request, nothing on the console.
Usage: web.py FRESH SHIPPED REPORT KEPT HF PLAIN FAST FOLDER
FRESH: as `make web` just made it; SHIPPED: as it is in git; REPORT: report.html of `make run`, in its folder; KEPT: the
folder of a short run with --keep_every; HF: of a model as transformers writes it; PLAIN, FAST: the program without fused
multiply-add, and with AVX2 and it"""
import base64, csv, json, os, re, select, shutil, statistics, struct, subprocess, sys, time
from itertools import permutations
import numpy as np

fresh, shipped, report, kept, hf, plain, fast, tmp = map(os.path.abspath, sys.argv[1:9])
MOST_BYTES = 1_500_000
MOST_TIMES = 2.6            # processor time of an update, over the program's
SECTIONS = "predicting hiding seeing finding scoring learning repeating".split()


class Browser:      # the DevTools protocol over pipes 3 and 4: JSON, each ended by a zero
    def __init__(self):
        (r, self.to), (self.back, w) = os.pipe(), os.pipe()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                   "--remote-debugging-pipe", f"--user-data-dir={tmp}/profile", "about:blank"]
        self.process = subprocess.Popen(["bash", "-c", f'exec 3<&{r} 4>&{w} "$@"', "-", *command], pass_fds=(r, w),
                                        stderr=subprocess.DEVNULL)
        os.close(r)
        os.close(w)
        self.rest, self.number, self.said, self.asked, self.workers = b"", 0, [], [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.watch(self.session, self.call)
        self.call("Page.enable", self.session)
        self.call("Emulation.setDeviceMetricsOverride", self.session, width=1200, height=900, deviceScaleFactor=1, mobile=False)

    def watch(self, session, send):
        for domain in ("Runtime", "Log", "Network"):
            send(domain + ".enable", session)
        send("Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=False, flatten=True)

    def send(self, method, session=None, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self.to, json.dumps(message).encode() + b"\0")
        return self.number

    def call(self, method, session=None, **params):
        number = self.send(method, session, **params)
        while True:
            while b"\0" not in self.rest:
                assert select.select([self.back], [], [], 120)[0], f"the browser does not answer {method}"
                got = os.read(self.back, 1 << 20)
                assert got, "the browser is gone"
                self.rest += got
            one, self.rest = self.rest.split(b"\0", 1)
            m = json.loads(one)
            if m.get("id") == number:
                assert "error" not in m, (method, m)
                return m.get("result")
            if m.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded",
                                   "Page.javascriptDialogOpening"):
                self.said.append(m["params"])
            if m.get("method") == "Network.requestWillBeSent":
                self.asked.append(m["params"]["request"]["url"])
            if m.get("method") == "Target.attachedToTarget" and m["params"]["targetInfo"]["type"] == "worker":
                self.workers.append(m["params"]["sessionId"])
                self.watch(self.workers[-1], self.send)     # a worker that ends meanwhile never answers

    def js(self, code, session=None):
        r = self.call("Runtime.evaluate", session or self.session, expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in r, (code, r)
        return r["result"].get("value")

    def get(self, code):
        return json.loads(self.js(f"JSON.stringify({code})"))

    def wait(self, code, seconds=60):
        end = time.time() + seconds
        while not self.js(code):
            words = "$('error').textContent + $('what').textContent + $('verdict').textContent"
            assert time.time() < end, f"{code} does not come: {self.js(words)}"
            time.sleep(0.1)

    def open(self, page):
        self.call("Page.navigate", self.session, url="file://" + page)
        self.wait("document.readyState == 'complete' && typeof run == 'object'")
        self.js(HELP + "; 0")

    def look(self, name, width, dark):
        self.call("Emulation.setDeviceMetricsOverride", self.session, width=width, height=900, deviceScaleFactor=1,
                  mobile=False)
        self.call("Emulation.setEmulatedMedia", self.session,
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        time.sleep(0.2)
        r = self.get("{ width: innerWidth, scroll: document.documentElement.scrollWidth, "
                     "ink: getComputedStyle(document.body).color }")
        ink = int(re.search(r"\d+", r["ink"])[0])
        assert r["width"] == width and r["scroll"] <= width, (r, "wider than the window")
        assert ink > 200 if dark else ink < 50, (r, "colours")
        shot = self.call("Page.captureScreenshot", self.session, captureBeyondViewport=True)["data"]
        open(f"{tmp}/{name}.png", "wb").write(base64.b64decode(shot))

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", self.session, type=kind, x=x, y=y, button="left", buttons=1, clickCount=1,
                  **more)

    def key(self, name, shift=False):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", self.session, type=kind, key=name, code=name, modifiers=8 if shift else 0)

    def point(self, element, x, y):         # of a canvas, at these shares of its sides; scrolled into view
        self.js(f"{element}.scrollIntoView({{ block: 'center' }}), 0")
        r = self.get(f"{element}.getBoundingClientRect()")
        return r["x"] + x * r["width"], r["y"] + y * r["height"]


# What is looked at again and again: the names of canvases of one colour, of sections and curves that are to be seen.
HELP = """
window.copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
window.pixels = c => {
    copy.canvas.width = c.width, copy.canvas.height = c.height, copy.drawImage(c, 0, 0);
    return copy.getImageData(0, 0, c.width, c.height).data;
};
window.flat = c => {
    let low = 255, high = 0;
    pixels(c).forEach((x, i) => { if (i % 4 < 3) low = Math.min(low, x), high = Math.max(high, x); });
    return high - low < 40;
};
window.seen = selector => [...document.querySelectorAll(selector)].filter(e => e.getClientRects().length);
window.state = () => ({ flat: seen('canvas').filter(flat).map(c => c.getAttribute('aria-label')),
    canvases: seen('canvas').length, sections: seen('main > section').map(s => s.id), verdict: $('verdict').textContent,
    kind: $('verdict').className, error: $('error').hidden ? '' : $('error').textContent, what: $('what').textContent,
    curves: seen('[data-curve]').map(f => [f.dataset.curve, Math.max(...[...f.querySelectorAll('polyline')].map(l => l.points.length))]),
    scores: seen('#scores tr').map(tr => [...tr.cells].map(td => td.textContent)), command: $('command').textContent })
"""
ALL = "run.predicted && run.cosines && document.querySelectorAll('#looks canvas').length && !$('scoring').hidden"


def lap(what):
    print(f"{time.time() - start:5.1f} s  {what}")


def words_of(path):         # the sum and the exclusive or of the words of encoder and predictor, in any order
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    words = []
    for name, t in json.loads(data[8:8 + n]).items():
        if re.match(r"(encoder|predictor)\.(?!.*pos_embed)", name):
            first, last = t["data_offsets"]
            words += struct.unpack(f"<{(last - first) // 4}I", data[8 + n + first:8 + n + last])
    both = 0
    for w in words:
        both ^= w
    return [len(words), sum(words) % 2**32, both]


def native(program, command, out, *more):
    shutil.rmtree(f"{tmp}/{out}", ignore_errors=True)
    subprocess.run([program, *command.split()[1:-1], f"{tmp}/{out}", *more], check=True, capture_output=True)
    return [line.split(",") for line in open(f"{tmp}/{out}/log.csv").read().split("\n")[1:-1]]


def rows_of(path):
    return list(csv.DictReader(open(path)))


def check_run(folder, curves):      # what is shown of a run is what its files say
    b.wait(ALL)
    s = b.get("state()")
    assert not s["error"] and not s["flat"] and s["sections"] == SECTIONS, s
    assert [name for name, points in s["curves"] if points > 2] == curves, s["curves"]
    last = rows_of(f"{folder}/health.csv")[-1]
    kind = {"healthy": "good", "warning": "bad", "collapsing": "bad"}.get(re.match(r"\w*", last["verdict"])[0], "")
    assert s["verdict"] == last["verdict"] and s["kind"] == kind, s
    numbers = b.js("$('numbers').textContent")
    assert all(last[k] in numbers for k in ("loss", "skill", "position", "rank", "cosine")), (numbers, last)
    scores = rows_of(f"{folder}/probe.csv")
    assert len(s["scores"]) == 1 + len(scores), s["scores"]
    for shown, row in zip(s["scores"][1:], scores):
        p = float(row["trained"]) / 100
        half = 196 * (p * (1 - p) / int(row["images"])) ** 0.5
        want = [row["task"], row["score"], f"{row['trained']} % ± {half:.1f}", f"{row['random']} %", f"{row['pixels']} %",
                f"{row['chance']} %", row["images"]]
        assert shown == want, (shown, want)
    return s


def check_neighbours(model, data, train, test):     # against NumPy, on what the program writes
    out = f"{tmp}/features.npy"
    subprocess.run([plain, "features", "--model", model, "--data", data, "--out", out], check=True, capture_output=True)
    x = np.load(out).astype(float)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    mine = np.array(b.get("run.cosines")).reshape(6, 6)
    bank = x[[i * train // 1000 for i in range(1000)]]
    want = -np.sort(-(x[[train + k * test // 6 for k in range(6)]] @ bank.T))[:, :6]
    assert abs(mine - want).max() < 1e-4, (mine, want)
    lap(f"neighbours are NumPy's: cosines differ by {abs(mine - want).max():.1e}")


def check_hole():           # real mouse events; what is not hidden stays as it is
    before = b.js("$('montage').toDataURL() + $('sketch').toDataURL() + $('apart').toDataURL()")
    b.mouse("mousePressed", *b.point("$('hole')", 0.1, 0.1))
    b.js("""window.wrong = 0; window.shown ||= show_predicted; show_predicted = p => {
        shown(p);           // each answer has its own hole
        p.apart.slice(1).forEach((x, i) => { const { x: left, y: top, w, h } = p.hole, column = i % 4 - left, row = (i >> 2) - top;
            wrong += (x > 0) != (column >= 0 && column < w && row >= 0 && row < h); }); }; 0""")
    for share in (0.2, 0.9, 0.4, 0.7, 0.6):
        b.mouse("mouseMoved", *b.point("$('hole')", share, share))
    b.mouse("mouseMoved", *b.point("$('hole')", 0.6, 0.4))
    b.mouse("mouseReleased", *b.point("$('hole')", 0.6, 0.4))
    assert b.get("run.hole") == {"x": 0, "y": 0, "w": 3, "h": 2}, b.get("run.hole")
    b.wait("!run.asked.predict && !run.wanted.predict && $('montage').toDataURL() + $('sketch').toDataURL() + $('apart').toDataURL() != "
           + json.dumps(before), 10)
    r = b.get("""(() => {
        const there = pixels($('there')), w = $('there').width, side = run.zoom * run.size.patch, out = {};
        for (const id of ['montage', 'sketch', 'montage_true', 'sketch_true', 'apart', 'hole']) {
            const p = pixels($(id)), in_hole = i => i / 4 % w < 3 * side && Math.floor(i / 4 / w) < 2 * side;
            const differ = p.map((x, i) => x != there[i]);
            out[id] = [differ.some((d, i) => d && in_hole(i)), differ.some((d, i) => d && !in_hole(i))];
        }
        return { out, apart: run.predicted.apart }; })()""")
    assert all(v == [True, False] for v in r["out"].values()) and b.js("wrong") == 0, r["out"]
    mean, each = r["apart"][0], r["apart"][1:]
    hidden = [0, 1, 2, 4, 5, 6]
    assert all((x > 0) == (i in hidden) for i, x in enumerate(each)) and abs(sum(each) / 6 - mean) < 1e-6 and 0 < mean < 1.5, each
    b.js("$('hole').focus(), 0")
    b.key("ArrowRight")
    b.key("ArrowDown", shift=True)
    assert b.get("run.hole") == {"x": 1, "y": 0, "w": 3, "h": 3}, b.get("run.hole")
    looks = b.js("seen('#looks canvas').map(c => c.toDataURL()).join()")
    b.mouse("mousePressed", *b.point("document.querySelectorAll('#components canvas')[1]", 0.9, 0.9))
    b.mouse("mouseReleased", *b.point("document.querySelectorAll('#components canvas')[1]", 0.9, 0.9))
    assert b.get("run.chosen") == {"picture": 1, "patch": 15}
    b.wait(f"seen('#looks canvas').map(c => c.toDataURL()).join() != {json.dumps(looks)}", 10)
    lap(f"a hole of 3 x 2 patches is dragged, moved and sized; distances {np.round(each, 2).tolist()}, mean {mean:.2f}")


def check_predictions(model, data, k):      # picture k: the pixels are those of `ijepa predict`, with the same pictures to ask
    columns, side = 32 // 8, 8
    test = int(data.split(":")[1]) // 4
    subprocess.run([plain, "render", "--seed", "2", "--images", str(k * test // 6 + 1), "--out", f"{tmp}/pics"], check=True,
                   capture_output=True)
    b.js(f"set_hole(1, 0, 2, 3), choose({k}), 0")
    b.wait(f"!run.asked.predict && run.predicted.hole.picture == {k} && run.predicted.hole.h == 3")
    subprocess.run([plain, "predict", f"{tmp}/pics/scene_{k * test // 6:06d}.ppm", "--model", model, "--reference", data,
                    "--hole", f"{side},0,{2 * side},{3 * side}", "--out", f"{tmp}/predict.ppm"], check=True, capture_output=True)
    head, size, most, rgb = open(f"{tmp}/predict.ppm", "rb").read().split(b"\n", 3)
    width, height = map(int, size.split())
    picture = np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
    cell = height + 4                       # image, context, montage, nearest, sketch, traced
    names = {2: "montage", 3: "montage_true", 4: "sketch", 5: "sketch_true"}
    for place, name in names.items():
        want = picture[:, place * cell:place * cell + height][::height // 32, ::height // 32]
        mine = np.array(b.get(f"[...run.predicted.{name}]")).reshape(32, 32, 3)
        assert (mine == want).all(), name
    lap("montage and sketch are those of `ijepa predict`, byte by byte")


def check_speed():
    """In turns, medians: wall time of an update, and processor time of one (all threads of the page; what it watches
    included), which other work on the machine disturbs less."""
    def page_cpu():
        return sum(p["cpuTime"] for p in b.call("SystemInfo.getProcessInfo")["processInfo"] if p["type"] == "renderer")

    def program_cpu(steps):
        before = os.times().children_user
        log = native(fast, begin["command"].replace("scenes:4000", "scenes:400"), "fast", "--steps", str(steps))
        return os.times().children_user - before, statistics.median(float(row[5]) for row in log)

    wall, cpu = {"page": [], "program": []}, {"page": [], "program": []}
    for turn in range(5):             # all before k-NN at 250
        used, at = page_cpu(), b.js("go(true), run.ms.length")
        b.wait(f"run.ms.length >= {at + 48}")
        b.js("run.going = false, send('run', { on: false, held: true }), 0")
        time.sleep(0.5)
        ms = b.js(f"run.ms.slice({at})")
        wall["page"].append(statistics.median(ms))
        cpu["page"].append(1000 * (page_cpu() - used) / len(ms))
        (short, _), (long, ms) = program_cpu(1), program_cpu(61)
        wall["program"].append(ms)
        cpu["program"].append(1000 * (long - short) / 60)
    for what, t in (("wall", wall), ("processor", cpu)):
        page_ms, program_ms = statistics.median(t["page"]), statistics.median(t["program"])
        ratio = page_ms / program_ms
        lap(f"{what} time of an update of 32 pictures: page {page_ms:.1f} ms, program {program_ms:.1f} ms, {ratio:.2f} times; "
            f"{ {k: [round(x, 1) for x in v] for k, v in t.items()} }")
    assert ratio <= MOST_TIMES, "slower than it may be"


start = time.time()
for page in (fresh, shipped):
    text = open(page, encoding="utf-8").read()
    assert len(text) <= MOST_BYTES, f"{page} weighs {len(text)} bytes"
    code = re.sub(r"<script type=.?(text/plain|application/octet-stream).*?</script>", "", text, flags=re.S)
    assert not re.search(r"<script[^>]+src|<link[^>]+href=[^\"]*[^:]//|@import|url\(|fetch\(|XMLHttpRequest|importScripts|"
                         r"WebSocket|innerHTML|insertAdjacentHTML|document\.write|eval\(", code), "something from outside"
    assert re.search(r"Built from commit [0-9a-f]{7}", text), "no commit"
b = Browser()

# ---- a trained model is looked at ----
for page in (shipped, fresh):
    b.open(page)
    check_run("data/trained", ["loss", "skill", "rank"])
    assert "212,416 parameters" in b.js("$('what').textContent")
    check_hole()
for width in (360, 1000, 1600):
    for dark in (False, True):
        b.look(f"trained_{width}{'_dark' if dark else ''}", width, dark)
b.look("trained", 1200, False)

# ---- it trains ----
b.js("$('see_training').click(), 0")
b.wait("run.size && run.predicted && !$('go').disabled")
begin = b.get("{ health: run.curves.skill[0], loss: run.curves.watched[0], command: $('command').textContent }")
check_speed()
# It answers meanwhile: the longest time between two ticks of the page.
b.js("""window.gap = 0, window.tick = performance.now(), setInterval(() => {
    const t = performance.now(); gap = Math.max(gap, t - tick), tick = t; }, 10);
    $('steps').options[0].value = 150, $('steps').selectedIndex = 0, $('restart').click(), 0""")
b.wait("run.size && run.predicted && run.step.length == 0 && !$('go').disabled")
b.js("window.first = seen('#components canvas').map(c => c.toDataURL()), window.montage = $('montage').toDataURL(), "
     "gap = 0, tick = performance.now(), go(true), 0")
b.wait("run.over && run.score.trained.length", 90)
b.wait(ALL.replace("&& !$('scoring').hidden", ""))
time.sleep(2)
r = b.get("""{ gap, losses: run.curves.loss.map(l => l[1]), skill: run.curves.skill.at(-1), watched: run.curves.watched.at(-1),
    score: run.score, ...state(), first, now: seen('#components canvas').map(c => c.toDataURL()),
    same: montage == $('montage').toDataURL() }""")
lap({k: r[k] for k in ("gap", "skill", "watched", "score", "verdict", "flat", "curves")})
assert not r["error"] and r["gap"] < 300, "the page does not answer while it trains"
assert statistics.mean(r["losses"][-20:]) < 0.8 * statistics.mean(r["losses"][:5]), "the loss does not fall"
assert r["skill"][1] > begin["health"][1] + 0.2 and r["watched"][1] < begin["loss"][1], "no skill"
assert not r["flat"] and not r["same"], "a picture is flat, or the montage stays"
assert r["now"][:12] == r["first"][:12] and r["now"][12:] != r["first"][12:], "the components stay"
assert len(r["curves"]) == 7 and all(points > 2 for _, points in r["curves"]), "a curve is missing"
assert r["score"]["trained"][0][1:] != r["score"]["random"][0][1:3], "k-NN"
assert all(10 < s[0][k] < 90 for s in r["score"].values() for k in (1, 2)), "k-NN"
b.look("training", 1200, False)
b.look("training_dark", 360, True)

# The command under the page does the same: every loss and every weight, of the program without fused multiply-add.
mine = b.js("""const w = new Uint32Array(c.memory.buffer, c.web_weights(), c.web_weights_count()); let sum = 0, both = 0;
    for (const v of w) sum = (sum + v) >>> 0, both = (both ^ v) >>> 0; [at, w.length, sum, both]""", b.workers[-1])
log = native(plain, r["command"], "plain")
assert mine[0] == len(log) == len(r["losses"]) == 150, (mine[0], len(log))
assert all(f"{a:.6f}" == row[2] for a, row in zip(r["losses"], log)), "other losses than the program's"
assert mine[1:] == words_of(f"{tmp}/plain/latest.safetensors"), "other weights than the program's"
lap(f"{len(log)} updates: the losses and weights of {r['command']}")

# Examples and settings; a bad number is refused.
b.js("document.querySelector('[data-example*=ema0]').click(), 0")
b.wait("run.size")
assert "--ema 0,0" in b.js("$('command').textContent")
b.js("$('blocks').value = 4, $('scale').value = 0.45, $('patch').value = 8, $('restart').click(), 0")
b.wait("run.curves.skill.length || !$('error').hidden")
assert not b.get("state()")["error"], "large targets"
b.js("$('objective').value = 'generative', $('restart').click(), 0")
b.wait("run.predicted && run.cosines && run.curves.skill.length || !$('error').hidden")
s = b.get("state()")
assert not s["error"] and not s["flat"] and "predicting" in s["sections"], s
lap("large targets train; so do pixels as targets")
b.js("$('objective').value = 'joint', $('ema0').value = 2, $('restart').click(), $('ema0').value = 0.99, $('restart').click(), 0")
b.wait("run.cosines && run.curves.skill.length || !$('error').hidden")
s = b.get("state()")
assert not s["error"] and not s["flat"] and "predicting" not in s["sections"] and b.js("!!$('masks: other view')"), s
assert b.js("seen('input, select').every(e => e.labels.length) && seen('canvas, main svg[role]').every("
            "e => e.getAttribute('aria-label') || e.closest('button'))"), "labels"

# A constant EMA; what is no run does not end the training, nor does a drag at its end go past it.
def drop(*paths):
    data = {"items": [], "files": list(paths), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        b.call("Input.dispatchDragEvent", b.session, type=kind, x=100, y=100, data=data)


empty = f"{tmp}/empty"
os.makedirs(empty, exist_ok=True)
open(f"{empty}/notes.txt", "w").write("nothing\n")
b.js("$('objective').value = 'jepa', $('ema0').value = 1, $('ema1').value = 1, $('blocks').value = 3, $('scale').value = 0.25, "
     "$('steps').options[0].value = 40, $('steps').selectedIndex = 0, $('restart').click(), 0")
b.wait("run.size && run.predicted && !$('go').disabled")
b.js("go(true), 0")
drop(empty)
b.wait("$('error').textContent.includes('These files are no run')")
b.wait("run.step[0] == 40 || run.over")
b.js("send('run', { on: true }), 0")
b.wait("run.over")
time.sleep(0.5)
assert b.js("run.step[0]") == 40 and b.js("run.kind") == "training", b.get("run.step")

# ---- runs ----
b.open(report)
check_run(os.path.dirname(report), ["loss", "skill", "rank", "lr", "ema"])
assert "The run in this page" in b.js("$('what').textContent")
check_neighbours(os.path.dirname(report), "scenes", 10000, 2500)
b.look("report", 1200, False)
b.js("$('see_trained').click(), 0")
b.wait("run.kind == 'trained' && run.size")
lap("a run inlined")


drop(kept)
b.wait("run.kind == 'opened' && " + ALL)
s = check_run(kept, ["loss", "skill", "rank", "lr", "ema"])
b.wait("document.querySelectorAll('#components > .tiles').length == 6")
assert os.path.basename(kept) in s["what"], s["what"]
rows = b.get("[...document.querySelectorAll('#components > span')].map(e => e.textContent)")
assert rows == ["picture", "before training", "after epoch 1", "after epoch 2", "after epoch 3", "now"], rows
# Colours stay: the last epoch's are those of now, and no order or sign of the colours before training is nearer to them.
colour = np.array(b.get("[...document.querySelectorAll('#components > .tiles')].slice(1).map(row => [...row.children].map("
                        "c => [...pixels(c)]))"), float)
z = colour.reshape(5, -1, 4)[:, :, :3]
assert abs(z[3] - z[4]).max() <= 1, "the last epoch is now"
z -= 127.5
for i in range(4):
    m = z[i].T @ z[4]
    best = max(sum(abs(m[k, p[k]]) for k in range(3)) for p in permutations(range(3)))
    assert np.trace(m) >= 0.98 * best, (i, m)
subprocess.run([plain, *s["command"].split()[1:-1], f"{tmp}/again"], check=True, capture_output=True)
assert open(f"{tmp}/again/latest.safetensors", "rb").read() == open(f"{kept}/latest.safetensors", "rb").read(), s["command"]
b.look("kept", 1200, True)
check_predictions(f"{kept}/latest.safetensors", "scenes:2000", 4)
before = b.get("[...document.querySelectorAll('#components > .tiles')].map(row => row.textContent + [...row.children].map(c => c.toDataURL()))")
b.js("$('others').click(), 0")
b.wait("!$('others').disabled")
b.wait("document.querySelectorAll('#components > .tiles').length == 6 && !run.asked.patch")
time.sleep(1)
after = b.get("[...document.querySelectorAll('#components > .tiles')].map(row => row.textContent + [...row.children].map(c => c.toDataURL()))")
assert all(x != y for x, y in zip(before, after)) and after[1] != after[4] and after[4] == after[5], "rows of other pictures"
lap(f"a folder dropped; its command makes its bytes: {s['command']}")

document = b.call("DOM.getDocument", b.session)["root"]["nodeId"]
for id, files in (("files", [f"{kept}/latest.safetensors", f"{kept}/health.csv"]), ("folder", [kept])):
    b.js("run.size = null; 0")
    node = b.call("DOM.querySelector", b.session, nodeId=document, selector="#" + id)["nodeId"]
    b.call("DOM.setFileInputFiles", b.session, nodeId=node, files=files)
    b.wait("run.kind == 'opened' && run.size && run.cosines")
    s = b.get("state()")
    assert not s["error"] and not s["flat"], s
    assert ("built-in scenes" in b.js("$('data').textContent")) == (id == "files"), s
lap("files and a folder, by the buttons")
drop(hf)
b.wait("run.name == " + json.dumps(os.path.basename(hf)) + " && run.cosines && document.querySelectorAll('#looks canvas').length")
s = b.get("state()")
assert not s["error"] and not s["flat"] and s["sections"] == ["seeing", "finding", "scoring"], s
lap("a model of Hugging Face's")

# ---- a hostile run: its names and words are text ----
bad = f"{tmp}/<img src=x onerror=alert(1)>"
shutil.rmtree(bad, ignore_errors=True)
os.makedirs(bad)
evil = "<img src=x onerror=alert(2)><script>alert(3)</script>"
head = "step,loss,skill,position,rank,feature std,cosine,verdict\n"
open(f"{bad}/health.csv", "w").write(head + f"{evil},1,1,1,1,1,1,x\n9,{evil},1,1,1,1,1,collapsing: {evil}\n")
open(f"{bad}/data.txt", "w").write(f"'{evil}`$(id)\n\n")
open(f"{bad}/probe.csv", "w").write("task,score,trained,random,pixels,images,chance\n" + ",".join([evil] * 7) + "\n")
open(f"{bad}/latest.safetensors", "wb").write(struct.pack("<Q", 80) + f'{{"__metadata__":{{"ijepa":"{evil}"}}}}'.encode().ljust(80))
drop(bad)
b.wait("run.name.includes('onerror') && !$('error').hidden && document.querySelectorAll('#scores td').length")
r = b.get("{ made: document.querySelectorAll('img, b, main script, #what *').length, text: document.body.innerText }")
assert b.js("$('verdict').className") == "bad"
assert r["made"] == 0 and r["text"].count("alert(2)") >= 4, r
lap("a hostile run shows its names as text")

# ---- notes as Windows writes them, of a run with a test set of its own, without a model ----
noted = f"{tmp}/noted"
os.makedirs(noted, exist_ok=True)
for name in ("health.csv", "probe.csv"):
    open(f"{noted}/{name}", "w", newline="\r\n").write(open(f"{kept}/{name}").read())
open(f"{noted}/data.txt", "w", newline="\r\n").write("some where\ntest\n")
drop(noted)
b.wait("run.name == 'noted' && document.querySelectorAll('#scores td').length")
s = b.get("state()")
assert s["verdict"] == rows_of(f"{kept}/health.csv")[-1]["verdict"] and s["sections"] == ["scoring", "learning"], s
shutil.copy(f"{kept}/latest.safetensors", noted)
drop(noted)
b.wait("run.kind == 'opened' && run.size && run.cosines")
s = b.get("state()")
assert "--data 'some where' --test test --preset scenes" in s["command"] and "some where" in b.js("$('data').textContent"), s
lap("notes with Windows' ends of lines; a test set of its own")

outside = [u for u in b.asked if not u.startswith(("blob:null/", "data:", *("file://" + p for p in (fresh, shipped, report))))]
assert not outside, outside[:9]
assert not b.said, str(b.said)[:1000]
b.process.terminate()
lap(f"no request, nothing on the console; {os.path.getsize(fresh) // 1000} KB")
