# make         the program, for this machine
# make run     renders scenes, trains on them, prints the scores, writes run/report.html (under three minutes on two cores)
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
	./ijepa probe --model run --out run/probe.json
	./ijepa report run

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

.PHONY: run web test check clean
