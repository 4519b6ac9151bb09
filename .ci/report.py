"""A report in Chromium: no console message, no request, every picture drawn, light and dark, narrow and wide, and no sideways
scrolling. Usage: report.py REPORT.html FOLDER [IMAGES CURVES] (at least so many; screenshots are left in FOLDER)"""
import html, json, os, re, subprocess, sys

report, tmp = map(os.path.abspath, sys.argv[1:3])
images, curves = map(int, sys.argv[3:] or (60, 6))
text = open(report, encoding="utf-8").read()
assert not re.search(r"<script|https?://|@import|url\(", text), "the report refers to something outside, or has a script"
policy = """<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">"""
measure = """<script>
addEventListener('load', () => {
    const images = [...document.images], c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    let drawn = 0, flat = 0;
    for (const i of images) {
        if (!i.complete || !i.naturalWidth || !i.getBoundingClientRect().width) continue;
        c.canvas.width = i.naturalWidth, c.canvas.height = i.naturalHeight, c.drawImage(i, 0, 0);
        const p = c.getImageData(0, 0, i.naturalWidth, i.naturalHeight).data;
        drawn++, flat += p.every((x, k) => k % 4 == 3 || Math.abs(x - p[k % 4]) < 2);
    }
    parent.postMessage(JSON.stringify({images: images.length, drawn, flat, curves: document.querySelectorAll('polyline').length,
        width: innerWidth, scroll: document.documentElement.scrollWidth, ink: getComputedStyle(document.body).color,
        dark: matchMedia('(prefers-color-scheme: dark)').matches, requests: performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length}), '*');
});
</script>"""
frame = """<body style="margin:0"><pre id=result></pre><script>addEventListener('message', m => document.getElementById('result').textContent = m.data)</script>
<iframe src=probe.html width=%d height=6000 style="border:0"></iframe>"""
open(f"{tmp}/probe.html", "w", encoding="utf-8").write(text.replace("<meta charset=utf-8>", "<meta charset=utf-8>" + policy + measure, 1))
browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0", "--no-first-run",
           f"--user-data-dir={tmp}/profile", "--window-size=1300,6000"]
for width in (360, 1200):
    open(f"{tmp}/frame.html", "w").write(frame % width)
    for dark in (False, True):
        look = ["--blink-settings=preferredColorScheme=0"] if dark else []
        run = subprocess.run([*browser, *look, "--virtual-time-budget=10000", "--dump-dom", f"file://{tmp}/frame.html"], capture_output=True, text=True, timeout=180)
        found = re.search(r'<pre id="result">(.+?)</pre>', run.stdout, re.S)
        assert found, run.stderr[-2000:]
        r = json.loads(html.unescape(found[1]))
        print(r)
        assert "CONSOLE" not in run.stderr, run.stderr
        assert r["images"] >= images and r["drawn"] == r["images"], "a picture is not drawn"
        assert r["flat"] < r["images"] / 4, "pictures of one colour"
        assert r["curves"] >= curves and r["requests"] == 0, "curves or requests"
        assert r["width"] == width and r["scroll"] <= width, "wider than the window"
        ink = int(re.search(r"\d+", r["ink"])[0])
        assert r["dark"] == dark and (ink > 200 if dark else ink < 50), "colours"
        subprocess.run([*browser, *look, f"--screenshot={tmp}/{width}{'dark' if dark else 'light'}.png", f"file://{tmp}/frame.html"], capture_output=True, timeout=180, check=True)
