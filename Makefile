# make         the program, for this machine
# make run     renders scenes, trains on them, prints the scores, writes run/report.html (under three minutes on two cores)
# make compare one table of the three architectures, or of ROWS, at equal arithmetic: variables below
# make test    builds and runs the tests (about a minute)
# make check   every gradient against finite differences, in double, as a table
# make web     ijepa.html: the same code as WebAssembly, in a page that trains in the browser (clang, lld, wasi-libc, libclang-rt-14-dev-wasm32)
# make ARCH=   portable: no instructions beyond the platform's baseline
ARCH ?= -march=native
CFLAGS ?= -O3 $(ARCH)
STRICT = -std=c99 -pedantic -ffp-contract=off -Wall -Wextra -Wconversion -Wshadow -Wdouble-promotion
LIBS = -lm -lpthread

ijepa: ijepa.c ijepa.h
	$(CC) $(STRICT) $(CFLAGS) -DIJEPA_MAIN ijepa.c -o $@ $(LDFLAGS) $(LIBS)

run: ijepa
	rm -rf run
	./ijepa train --preset scenes --out run
	./ijepa probe --model run --out run/probe.csv
	./ijepa report run

# make compare: every row of ROWS ("name: settings; name: settings") is trained with SETTINGS on DATA for BUDGET TFLOP, once
# for each of SEEDS, and scored on IMAGES of either part (0: at most 10,000). Runs lie in OUT; called again, it goes on
# where it was interrupted. Another comparison takes another OUT.
ROWS = jepa: --objective jepa; generative: --objective generative; joint: --objective joint --crop_scale 0.4,1
SETTINGS = --preset scenes
DATA = scenes
BUDGET = 6.36
SEEDS = 0 1 2
IMAGES = 5000
OUT = run/compare

compare: ijepa
	@mkdir -p $(OUT); echo '$(ROWS)' | tr ';' '\n' | while IFS=: read -r name settings; do \
	    name=$$(echo $$name | tr ' ' _); steps=0; set -- --data $(DATA) $(SETTINGS) $$settings; \
	    eval "$$(./ijepa train "$$@" --dry-run | awk '/^warmup/ { warmup = $$3 } /^images/ { updates = $$10; batch = $$7 / updates } \
	        /^work/ { steps = int($(BUDGET) * 1e6 / $$2 / batch); images = steps * batch; tflop = images * $$2 / 1e6; \
	        printf "steps=%d warmup=%.9g images=%d tflop=%.3g", steps, warmup * steps / updates, images, tflop }')"; \
	    [ $$steps -gt 0 ] || { echo "$$name: no run of $(BUDGET) TFLOP" >&2; exit 1; }; \
	    for seed in $(SEEDS); do dir=$(OUT)/$${name}_$$seed; resume=; [ ! -e $$dir/latest.safetensors ] || resume=--resume; \
	        ./ijepa train "$$@" --steps $$steps --warmup $$warmup --seed $$seed --out $$dir $$resume >&2 || exit 1; \
	        [ -e $$dir/probe.csv ] || ./ijepa probe --model $$dir --data $(DATA) --images $(IMAGES) --out $$dir/probe.csv >&2 || exit 1; \
	        minutes=$$(awk -F, 'NR > 1 { ms += $$6 } END { print ms / 60000 }' $$dir/log.csv); \
	        sed "1d; s/^/$$name,$$images,$$tflop,$$minutes,/" $$dir/probe.csv; done; done >$(OUT)/runs.csv
	@awk -F, 'function add(who, x) { n[who, c]++; sum[who, c] += x; square[who, c] += x * x } \
	    function mean(who) { return sum[who, c] / n[who, c] } function variance(who) { return square[who, c] / n[who, c] - mean(who) ^ 2 } \
	    function sd(who) { return sqrt(variance(who) > 0 ? variance(who) * n[who, c] / (n[who, c] - 1) : 0) } \
	    { c = $$5 " " $$6 } !seen[c]++ { head[++heads] = c; top = top sprintf("  %-12s", c) } !($$1 in cost) { row[++rows] = $$1 } \
	    $$1 == row[1] { add("random encoder", $$8) } !n["raw pixels", c] { add("raw pixels", $$9) } \
	    { add($$1, $$7); c = "minutes"; add($$1, $$4); cost[$$1] = sprintf(" %9d %8.3g %8.1f", $$2, $$3, mean($$1)) } \
	    END { row[++rows] = "random encoder"; row[++rows] = "raw pixels"; printf "%-16s%s    images    TFLOP  minutes\n", "", top; \
	        for (r = 1; r <= rows; r++) { printf "%-16s", row[r]; for (i = 1; i <= heads; i++) { c = head[i]; printf "  %5.1f", mean(row[r]); \
	            printf "%-7s", (n[row[r], c] > 1 ? sprintf(" sd %3.1f", sd(row[r])) : "") } print cost[row[r]] } }' $(OUT)/runs.csv

test: test_ijepa test_ijepa_double
	./test_ijepa
	./test_ijepa_double

test_ijepa: test_ijepa.c ijepa.c ijepa.h
	$(CC) $(STRICT) $(CFLAGS) test_ijepa.c -o $@ $(LDFLAGS) $(LIBS)

test_ijepa_double: test_ijepa.c ijepa.c ijepa.h
	$(CC) $(STRICT) $(CFLAGS) -DIJEPA_DOUBLE test_ijepa.c -o $@ $(LDFLAGS) $(LIBS)

check: test_ijepa_double
	./test_ijepa_double check_table

web: ijepa.html
ijepa.html: data/web.html ijepa.wasm
	base64 ijepa.wasm | sed -e '/^@WASM@$$/{r /dev/stdin' -e 'd}' data/web.html >$@.tmp
	mv $@.tmp $@

ijepa.wasm: data/web.c ijepa.c ijepa.h
	clang --target=wasm32-wasi $(STRICT) -O3 -msimd128 -mexec-model=reactor -DIJEPA_NO_POSIX -DIJEPA_MAIN -D_WASI_EMULATED_SIGNAL -D_WASI_EMULATED_PROCESS_CLOCKS \
	    data/web.c -o $@ -Wl,-s,-z,stack-size=1048576 -lwasi-emulated-signal -lwasi-emulated-process-clocks

clean:
	rm -rf run ijepa.html ijepa.html.tmp ijepa.wasm ijepa test_ijepa test_ijepa_double

.PHONY: run compare web test check clean
