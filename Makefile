# make         the program, for this machine
# make run     renders scenes, trains on them, prints the scores, writes run/report.html (under three minutes on two cores)
# make report  RUN/report.html: data/ijepa.html, the page, with the files of a run in it
# make compare one table of the three architectures, or of ROWS, at equal arithmetic: variables below
# make test    builds and runs the tests (about a minute)
# make check   every gradient against finite differences, in double, as a table
# make web     data/ijepa.html anew: the same code as WebAssembly, in a page (clang, lld, wasi-libc, libclang-rt-14-dev-wasm32)
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
	@$(MAKE) -s report RUN=run

# Those of the files "$$@" that exist, each in the block of base64 that the page reads
BLOCKS = for file; do if [ -f "$$file" ]; then \
    printf '<script type="text/plain" data-file="%s">\n' "$$file"; base64 <"$$file"; echo '</script>'; fi; done
RUN = run

report:
	@[ -f data/ijepa.html ] || { echo "data/ijepa.html is missing: make web makes it" >&2; exit 1; }
	@(set -e; cat data/ijepa.html; cd "$(RUN)"; \
	    set -- latest.safetensors health.csv log.csv probe.csv data.txt; $(BLOCKS)) >"$(RUN)/report.html.tmp"
	@mv "$(RUN)/report.html.tmp" "$(RUN)/report.html"
	@echo "$(RUN)/report.html: to be opened in a browser"

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

compare: ijepa
	@set -e; mkdir -p $(OUT); echo '$(ROWS)' | tr ';' '\n' | while IFS=: read -r row settings; do \
	    row=$$(echo $$row | tr ' ' _); steps=0; set -- --data $(DATA) $(SETTINGS) $$settings; \
	    eval "$$(./ijepa train "$$@" --dry-run | awk -v mflop=$(BUDGET)e6 ' \
	        /^warmup/ { warmup = $$3 } /^images/ { updates = $$10; batch = $$7 / updates } /^work/ { \
	        steps = int(mflop / $$2 / batch); images = steps * batch; warmup *= steps / updates; \
	        printf "steps=%d warmup=%.9g cost=%d,%.3g", steps, warmup, images, images * $$2 / 1e6 }')"; \
	    [ $$steps -gt 0 ] || { echo "$$row: no run of $(BUDGET) TFLOP" >&2; exit 1; }; \
	    for seed in $(SEEDS); do run=$(OUT)/$${row}_$$seed; csv=$$run/probe.csv; resume=; \
	        if [ -e $$run/latest.safetensors ]; then resume=--resume; fi; \
	        ./ijepa train "$$@" --steps $$steps --warmup $$warmup --seed $$seed --out $$run $$resume >&2; \
	        [ -s $$csv ] || ./ijepa probe --model $$run --data $(DATA) --images $(IMAGES) --out $$csv >&2; \
	        minutes=$$(awk -F, '{ ms += $$6 } END { print ms / 60000 }' $$run/log.csv); \
	        sed "1d; s/,/ /; s/^/$$row,$$cost,$$minutes,/" $$csv; done; done >$(OUT)/runs.csv
	@awk -F, '{ k = $$1 "," $$5; n[k]++; trained[k] += $$6; square[k] += $$6 ^ 2; random[k] += $$7; pixels[k] += $$8 } \
	    { minutes[k] += $$4; cost[k] = sprintf("%9d %7.3g", $$2, $$3) } n[k] == 1 { key[++keys] = k; name[k] = $$1; score[k] = $$5 } \
	    END { print "row              score         trained   sd  random  pixels    images   TFLOP  minutes"; \
	        for (i = 1; i <= keys; i++) { k = key[i]; m = n[k]; mean = trained[k] / m; v = square[k] / m - mean ^ 2; \
	            sd = m > 1 && v > 0 ? sqrt(v * m / (m - 1)) : 0; printf "%-16s %-14s %6.1f %4.1f  %6.1f  %6.1f %s %8.1f\n", name[k], \
	                score[k], mean, sd, random[k] / m, pixels[k] / m, cost[k], minutes[k] / m } }' $(OUT)/runs.csv

test: test_ijepa test_ijepa_double
	./test_ijepa
	./test_ijepa_double

test_ijepa: test_ijepa.c ijepa.c ijepa.h
	$(CC) $(STRICT) $(CFLAGS) test_ijepa.c -o $@ $(LDFLAGS) $(LIBS)

test_ijepa_double: test_ijepa.c ijepa.c ijepa.h
	$(CC) $(STRICT) $(CFLAGS) -DIJEPA_DOUBLE test_ijepa.c -o $@ $(LDFLAGS) $(LIBS)

check: test_ijepa_double
	./test_ijepa_double check_table

web: ijepa.wasm
	@set -e; commit=$$(git describe --always --dirty 2>/dev/null || echo unknown commit); \
	    sed "s/@COMMIT@/$$commit/" data/web.html | while IFS= read -r line; do case $$line in \
	        @WASM@) base64 <ijepa.wasm ;; \
	        @RUN@) (cd data/trained; set -- *; $(BLOCKS)) ;; \
	        *) printf '%s\n' "$$line" ;; esac; done >data/ijepa.html.tmp
	mv data/ijepa.html.tmp data/ijepa.html

ijepa.wasm: data/web.c ijepa.c ijepa.h
	clang --target=wasm32-wasi $(STRICT) -O3 -fno-unroll-loops -msimd128 -mexec-model=reactor -DIJEPA_NO_POSIX -DIJEPA_MAIN -D_WASI_EMULATED_SIGNAL -D_WASI_EMULATED_PROCESS_CLOCKS \
	    data/web.c -o $@ -Wl,-s,--export-dynamic,-z,stack-size=1048576 -lwasi-emulated-signal -lwasi-emulated-process-clocks

clean:
	rm -rf run data/ijepa.html.tmp ijepa.wasm ijepa test_ijepa test_ijepa_double

.PHONY: run report compare web test check clean
