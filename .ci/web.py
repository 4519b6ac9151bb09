"""The page of `make web` in a headless Chromium, from a file: it trains, what it shows changes, nothing is asked of the network, nothing
is said on the console, it answers while it trains, and it trains as the program does: the same weights to the last bit, at a third of its
speed at least. Usage: web.py PAGE.html PLAIN FAST FOLDER   PLAIN: the program without fused multiply-add, FAST: with AVX2 and FMA"""
import base64, json, os, re, select, statistics, struct, subprocess, sys, time

page, plain, fast, tmp = map(os.path.abspath, sys.argv[1:5])
text = open(page, encoding="utf-8").read()
assert not re.search(r"<script[^>]+src|<link[^>]+href=[^\"]*[^:]//|@import|url\(|fetch\(|XMLHttpRequest|importScripts|WebSocket", text), "the page refers to something outside"


class Browser:      # the DevTools protocol over pipes 3 and 4: JSON, each ended by a zero
    def __init__(self, *options):
        (r, self.to), (self.back, w) = os.pipe(), os.pipe()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
                   f"--user-data-dir={tmp}/profile", *options, "about:blank"]
        self.process = subprocess.Popen(["bash", "-c", f'exec 3<&{r} 4>&{w} "$@"', "-", *command], pass_fds=(r, w), stderr=subprocess.DEVNULL)
        os.close(r), os.close(w)
        self.rest, self.number, self.said, self.asked, self.workers = b"", 0, [], [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.watch(self.session, self.call)
        self.call("Page.enable", self.session)

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
            if m.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(m["params"])
            if m.get("method") == "Network.requestWillBeSent":
                self.asked.append(m["params"]["request"]["url"])
            if m.get("method") == "Target.attachedToTarget" and m["params"]["targetInfo"]["type"] == "worker":
                self.workers.append(m["params"]["sessionId"])
                self.watch(self.workers[-1], self.send)     # a worker that ends meanwhile never answers

    def js(self, code, session=None):
        r = self.call("Runtime.evaluate", session or self.session, expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in r, r
        return r["result"].get("value")

    def wait(self, code, seconds=60):
        end = time.time() + seconds
        while not self.js(code):
            assert time.time() < end, f"{code} does not come: " + str(self.js("$('error').textContent + $('verdict').textContent + $('numbers').textContent"))
            time.sleep(0.1)

    def look(self, name, width, dark):
        self.call("Emulation.setDeviceMetricsOverride", self.session, width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", self.session, features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        time.sleep(0.2)
        r = json.loads(self.js("JSON.stringify({ width: innerWidth, scroll: document.documentElement.scrollWidth, ink: getComputedStyle(document.body).color })"))
        ink = int(re.search(r"\d+", r["ink"])[0])
        assert r["width"] == width and r["scroll"] <= width, (r, "wider than the window")
        assert ink > 200 if dark else ink < 50, (r, "colours")
        shot = self.call("Page.captureScreenshot", self.session, captureBeyondViewport=True)["data"]
        open(f"{tmp}/{name}.png", "wb").write(base64.b64decode(shot))


def weights_of(path):       # the sum and the exclusive or of the 32-bit words of encoder and predictor, in any order
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    words = []
    for name, t in json.loads(data[8:8 + n]).items():
        if re.match(r"(encoder|predictor)\.(?!.*pos_embed)", name):
            words += struct.unpack(f"<{(t['data_offsets'][1] - t['data_offsets'][0]) // 4}I", data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
    both = 0
    for w in words:
        both ^= w
    return [len(words), sum(words) % 2**32, both]


def native(program, command, out, *more):
    subprocess.run(["rm", "-rf", f"{tmp}/{out}"], check=True)
    subprocess.run([program, *command.split()[1:-1], f"{tmp}/{out}", *more], check=True, capture_output=True)
    return [line.split(",") for line in open(f"{tmp}/{out}/log.csv").read().split("\n")[1:-1]]


start = time.time()


def lap(what):
    print(f"{time.time() - start:5.1f} s  {what}")


b = Browser()
b.call("Page.navigate", b.session, url="file://" + page)
b.wait("typeof run == 'object' && !$('go').disabled")
begin = json.loads(b.js("JSON.stringify({ health: run.watched[0], command: $('command').textContent, verdict: $('verdict').textContent })"))
lap(begin)

# Speed in turns, medians: wall time of an update, and processor time of one (all threads of the page; what it watches included),
# which other work on the machine disturbs less.
def page_cpu():
    return sum(p["cpuTime"] for p in b.call("SystemInfo.getProcessInfo")["processInfo"] if p["type"] == "renderer")


def program_cpu(steps):
    before = os.times().children_user
    log = native(fast, begin["command"].replace("scenes:4000", "scenes:400"), "fast", "--steps", str(steps))
    return os.times().children_user - before, statistics.median(float(row[5]) for row in log)


wall, cpu = {"page": [], "program": []}, {"page": [], "program": []}
for turn in range(3):
    used, at = page_cpu(), b.js("go(true), run.loss.length")
    b.wait(f"run.loss.length >= {at + 60}")
    b.js("go(false), 0"), time.sleep(0.5)
    ms = b.js(f"run.loss.slice({at}).map(l => l[7])")
    wall["page"].append(statistics.median(ms)), cpu["page"].append(1000 * (page_cpu() - used) / len(ms))
    (short, _), (long, ms) = program_cpu(1), program_cpu(61)
    wall["program"].append(ms), cpu["program"].append(1000 * (long - short) / 60)
ratio = []
for what, t in (("wall", wall), ("processor", cpu)):
    page_ms, program_ms = statistics.median(t["page"]), statistics.median(t["program"])
    ratio.append(page_ms / program_ms)
    lap(f"{what} time of an update of 32 pictures: page {page_ms:.1f} ms, program {program_ms:.1f} ms, {ratio[-1]:.2f} times; { {k: [round(x, 1) for x in v] for k, v in t.items()} }")
assert min(ratio) < 3, "slower than a third of the program"

# It trains, and answers meanwhile: the longest time between two ticks of the page.
b.js("""window.gap = 0, window.tick = performance.now(), setInterval(() => { const t = performance.now(); gap = Math.max(gap, t - tick), tick = t; }, 10);
    $('steps').options[0].value = 150, $('steps').selectedIndex = 0, $('restart').click(), 0""")
b.wait("run.weights && !$('go').disabled")
b.js("window.flat = id => { const d = $(id).getContext('2d').getImageData(0, 0, $(id).width, $(id).height).data.filter((x, i) => i % 4 < 3); return Math.max(...d) - Math.min(...d) < 40; }, window.first = $('before').toDataURL(), gap = 0, go(true), 0")
b.wait("run.over", 90)
r = json.loads(b.js("""JSON.stringify({ gap, losses: run.loss.map(l => l[1]), steps: run.loss.length, health: run.watched.at(-1), verdict: $('verdict').textContent, score: run.score,
    flat: ['image', 'context', 'targets', 'watched', 'before', 'components'].filter(flat), same: first == $('components').toDataURL(), rate: rate(),
    curves: [...document.querySelectorAll('main figure > svg')].map(s => s.querySelectorAll('polyline').length && s.querySelector('polyline').points.length), error: $('error').textContent })"""))
lap({k: v for k, v in r.items() if k != "losses"})
assert not r["error"] and r["gap"] < 300, "the page does not answer while it trains"
assert statistics.mean(r["losses"][-20:]) < 0.8 * statistics.mean(r["losses"][:5]), "the loss does not fall"
assert r["health"][2] > begin["health"][2] + 0.2 and r["health"][1] < begin["health"][1], "no skill"
assert not r["flat"] and not r["same"], "a picture is flat, or the components stay"
assert all(n >= 2 for n in r["curves"]) and len(r["curves"]) == 5, "a curve is missing"
assert r["score"]["trained"][0][1:] != r["score"]["random"][0][1:] and all(10 < s[0][k] < 90 for s in r["score"].values() for k in (1, 2)), "k-NN"
for name, width, dark in (("wide", 1200, False), ("wide_dark", 1200, True), ("narrow", 360, False), ("narrow_dark", 360, True)):
    b.look(name, width, dark)

# The command under the page does the same: every loss and every weight, of the program without fused multiply-add.
mine = b.js("""const w = new Uint32Array(x.memory.buffer, x.web_weights(), x.web_weights_count()); let sum = 0, both = 0;
    for (const v of w) sum = (sum + v) >>> 0, both = (both ^ v) >>> 0; [at, w.length, sum, both]""", b.workers[-1])
done, mine = mine[0], mine[1:]
command = b.js("$('command').textContent")
log = native(plain, command, "plain")
assert done == len(log) == len(r["losses"]) == 150, (done, len(log))
assert all(f"{a:.6f}" == row[2] for a, row in zip(r["losses"], log)), "other losses than the program's"
assert mine == weights_of(f"{tmp}/plain/latest.safetensors"), "other weights than the program's"
lap(f"{done} updates: the losses and weights of {command}")

# Examples and settings; a bad number is refused.
b.js("document.querySelector('[data-example*=ema0]').click(), 0")
assert "--ema 0,0" in b.js("$('command').textContent")
b.js("$('blocks').value = 4, $('scale').value = 0.45, $('patch').value = 8, $('restart').click(), 0")
b.wait("run.watched.length || !$('error').hidden")
lap("large targets: " + (b.js("$('error').textContent") or "they train"))
b.js("[...document.querySelectorAll('form input, form select, form button')].length, $('objective').value = 'joint', $('ema0').value = 2, $('restart').click(), $('ema0').value = 0.99, $('restart').click(), 0")
b.wait("run.watched.length || !$('error').hidden")
assert b.js("$('error').hidden") and b.js("$('targets_name').textContent") == "other view", b.js("$('error').textContent")
assert b.js("[...document.querySelectorAll('form input, form select')].every(e => e.labels.length) && [...document.querySelectorAll('canvas, main > figure > svg')].every(e => e.getAttribute('aria-label'))"), "labels"
outside = [u for u in b.asked if not u.startswith(("blob:null/", "data:", "file://" + page))]
assert not outside, outside[:9]
assert not b.said, str(b.said)[:1000]
b.process.terminate()
lap(f"no request, nothing on the console; {len(text) // 1000} KB")
