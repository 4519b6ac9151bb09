# make         the program, for this machine
# make run     renders scenes, trains on them, prints the scores, writes run/report.html (under three minutes on two cores)
# make test    builds and runs the tests (under a minute)
# make check   every gradient against finite differences, in double, as a table
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

check: ijepa_double
	./ijepa_double check

ijepa_double: ijepa.c ijepa.h
	$(CC) $(STRICT) $(CFLAGS) -DIJEPA_DOUBLE -DIJEPA_MAIN ijepa.c -o $@ $(LDFLAGS) $(LIBS)

clean:
	rm -rf run ijepa ijepa_double test_ijepa test_ijepa_double

.PHONY: run test check clean
