# Cargo builds; this installs, and runs what a checkout can show. Each target finds or installs what it needs.
#
#   make             the shared and the static library, into build/lib
#   make run         the quickstart, on memory:// and on a Redis that is started for it
#   make test        everything that must hold before a change is accepted
#   make bench       this library beside others, and docs/benchmark.md anew; FULL=1 for all of it
#   make install     PREFIX=/usr/local, LIBDIR, INCLUDEDIR, DESTDIR
#   make uninstall   the same variables
#   make header      include/cachetory.h anew, from the source
#   make clean

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DESTDIR ?=

all:
	@scripts/build

# `sudo make install` often has no cargo on its path; then what `make` has built is installed.
install: $(if $(shell command -v cargo),all)
	@PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' INCLUDEDIR='$(INCLUDEDIR)' DESTDIR='$(DESTDIR)' scripts/install install

uninstall:
	@PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' INCLUDEDIR='$(INCLUDEDIR)' DESTDIR='$(DESTDIR)' scripts/install uninstall

header:
	CACHETORY_WRITE_HEADER=1 cargo test --quiet --test abi header_is_the_source

run:
	@scripts/run

test:
	@scripts/test

bench:
	@FULL='$(FULL)' scripts/bench

clean:
	cargo clean
	rm -rf build

.PHONY: all install uninstall header run test bench clean
