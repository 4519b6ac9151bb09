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

# make compare: every row of ROWS ("name: settings; name: settings") is trained with SETTINGS on DATA for BUDGET
# TFLOP, once for each of SEEDS, and scored on IMAGES of either part (0: at most 10,000). Runs lie in OUT; called
# again, it goes on where it was interrupted. Another comparison takes another OUT.
ROWS = jepa: --objective jepa; generative: --objective generative; joint: --objective joint --crop_scale 0.4,1
SETTINGS = --preset scenes
DATA = scenes
BUDGET = 6.36
SEEDS = 0 1 2
IMAGES = 5000
OUT = run/compare

# runs.csv, a line for each run and score: name,images,TFLOP,minutes,task,score,trained,random,pixels,scored
define table
function add(row, column, x) { n[row, column]++; sum[row, column] += x; square[row, column] += x * x }
function mean(row, column) { return sum[row, column] / n[row, column] }
function sd(row, column) {
    variance = square[row, column] / n[row, column] - mean(row, column) ^ 2
    return sqrt(variance > 0 ? variance * n[row, column] / (n[row, column] - 1) : 0)
}
{ score = $$5 " " $$6 }
!(score in known) { known[score]; scores[++wide] = score }
!($$1 in cost) { rows[++high] = $$1 }
high == 1 { add("random encoder", score, $$8) }
!n["raw pixels", score] { add("raw pixels", score, $$9) }
{ add($$1, score, $$7); add($$1, "minutes", $$4) }
{ cost[$$1] = sprintf(" %9d %8.3g %8.1f", $$2, $$3, mean($$1, "minutes")) }
END {
    rows[++high] = "random encoder"
    rows[++high] = "raw pixels"
    printf "%-16s", ""
    for (i = 1; i <= wide; i++) printf "  %-12s", scores[i]
    print "    images    TFLOP  minutes"
    for (r = 1; r <= high; r++) {
        printf "%-16s", rows[r]
        for (i = 1; i <= wide; i++) {
            spread = n[rows[r], scores[i]] > 1 ? sprintf(" sd %3.1f", sd(rows[r], scores[i])) : ""
            printf "  %5.1f%-7s", mean(rows[r], scores[i]), spread
        }
        print cost[rows[r]]
    }
}
endef
export table

compare: ijepa
	@set -e; mkdir -p $(OUT); echo '$(ROWS)' | tr ';' '\n' | while IFS=: read -r name settings; do \
	    name=$$(echo $$name | tr ' ' _); steps=0; set -- --data $(DATA) $(SETTINGS) $$settings; \
	    eval "$$(./ijepa train "$$@" --dry-run | awk -v mflop=$(BUDGET)e6 ' \
	        /^warmup/ { warmup = $$3 } /^images/ { updates = $$10; batch = $$7 / updates } \
	        /^work/ { steps = int(mflop / $$2 / batch); warmup *= steps / updates; images = steps * batch; \
	            printf "steps=%d warmup=%.9g cost=%d,%.3g", steps, warmup, images, images * $$2 / 1e6 }')"; \
	    [ $$steps -gt 0 ] || { echo "$$name: no run of $(BUDGET) TFLOP" >&2; exit 1; }; \
	    for seed in $(SEEDS); do run=$(OUT)/$${name}_$$seed; out=$$run/probe.csv; resume=; \
	        if [ -e $$run/latest.safetensors ]; then resume=--resume; fi; \
	        ./ijepa train "$$@" --steps $$steps --warmup $$warmup --seed $$seed --out $$run $$resume >&2; \
	        [ -s $$out ] || ./ijepa probe --model $$run --data $(DATA) --images $(IMAGES) --out $$out >&2; \
	        minutes=$$(awk -F, '{ ms += $$6 } END { print ms / 60000 }' $$run/log.csv); \
	        sed "1d; s/^/$$name,$$cost,$$minutes,/" $$out; done; done >$(OUT)/runs.csv
	@awk -F, "$$table" $(OUT)/runs.csv

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
