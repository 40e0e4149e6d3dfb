# What can be made here: `make help`. Everything works in a clean clone on Debian
# 12 or newer; scripts/bootstrap installs what is missing.

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
DESTDIR ?=
CARGO ?= $(shell command -v cargo 2>/dev/null || echo $(HOME)/.cargo/bin/cargo)
TARGET := $(or $(CARGO_TARGET_DIR),target)/release
VERSION := $(shell sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
STATES ?= 5000000
FUZZ_S ?= 600
MUTANTS_S ?= 3600
SCHEDULES ?= 6000
SEEDS ?= 100000
INSTALL := install
TMPFILES = $(PREFIX)/lib/tmpfiles.d
MANDIR = $(PREFIX)/share/man/man1
BASH_WORDS = $(PREFIX)/share/bash-completion/completions
ZSH_WORDS = $(PREFIX)/share/zsh/site-functions
FISH_WORDS = $(PREFIX)/share/fish/vendor_completions.d

.DEFAULT_GOAL := build
.PHONY: build demo check check-stores bench bench-rbd bench-move crash fuzz simulate soak mutants schedules sanitizers
.PHONY: install uninstall clean help

## build      the library, the command and what `install` installs
build:
	@scripts/bootstrap build rust
	$(CARGO) build --release --locked

## demo       boot a Debian guest from a volume: snapshot, clone, rollback
demo:
	@scripts/bootstrap build rust guest
	@tests/guest/demo $(DEMO)

## check      every test; the last line counts them (ONLY="group ..." for some)
check:
	@scripts/bootstrap build rust guest check clippy soak
	@scripts/check $(ONLY)

## check-stores  stores on real servers, started here; the last line counts
check-stores:
	@scripts/bootstrap build rust
	@scripts/bootstrap stores || true
	@scripts/check-stores

## bench      compare with raw and qcow2 on the same disk
bench:
	@test -x benches/run || { echo "there is no benchmark in this tree yet" >&2; exit 1; }
	@scripts/bootstrap build rust bench
	@benches/run $(BENCH)

## bench-rbd  compare with RBD on the same small Ceph cluster (RBD="--quick")
bench-rbd:
	@benches/rbd $(RBD)

## bench-move what a guest loses while its volume moves (MOVE="--seconds 20"), as root
bench-move:
	@benches/move $(MOVE)

## crash      explore crash states for longer (STATES=5000000)
crash:
	@test -e tests/crash.rs || { echo "there is no crash explorer in this tree yet" >&2; exit 1; }
	@scripts/bootstrap build rust
	ARCHIPELAGO_CRASH_STATES=$(STATES) $(CARGO) test --release --locked --test crash -- --nocapture

## fuzz       damaged inputs to every decoder, with overflow checks (FUZZ_S=600)
fuzz:
	@scripts/bootstrap build rust
	ARCHIPELAGO_FUZZ_S=$(FUZZ_S) $(CARGO) test --locked --test fuzz -- --nocapture

## simulate   several hosts that share a store (SEEDS=100000, or SEED=7 for all of one)
simulate:
	@scripts/bootstrap build rust
	SEEDS=$(SEEDS) $(CARGO) test --release --locked --test simulate no_hosts -- --nocapture

## soak       kills, losses of power, random operations on the real stack, as root (SOAK="PART ...")
soak: build
	@scripts/bootstrap soak
	@tests/soak/run $(SOAK)

## mutants    break the library in thousands of small ways; goes on where it ended (MUTANTS_S=3600)
mutants:
	@scripts/bootstrap build rust
	@$(CARGO) mutants --version >/dev/null 2>&1 || \
	    { echo "cargo-mutants is missing: cargo install --locked cargo-mutants" >&2; exit 1; }
	@tests/mutants/run --time $(MUTANTS_S)

## schedules  thousands of orders of the library's own locks (SCHEDULES=6000)
schedules:
	@scripts/bootstrap build rust
	@ARCHIPELAGO_SCHEDULES=$(SCHEDULES) $(CARGO) test --release --locked --no-default-features --features model \
	    --test shuttle -- --nocapture && echo "schedules: every story holds in $(SCHEDULES) orders, every planted fault is found"

## sanitizers the library under AddressSanitizer and ThreadSanitizer (SANITIZERS="thread")
sanitizers:
	@scripts/bootstrap build rust check
	@scripts/check-sanitizers $(SANITIZERS)

## install    into PREFIX (/usr/local), below DESTDIR if that is set
install:
	@test -e $(TARGET)/libarchipelago.so -a -x $(TARGET)/archipelago || \
	    { echo "nothing is built yet: run 'make build' first" >&2; exit 1; }
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)/pkgconfig
	$(INSTALL) -m 755 $(TARGET)/archipelago $(DESTDIR)$(PREFIX)/bin/
	$(INSTALL) -m 644 include/archipelago.h $(DESTDIR)$(PREFIX)/include/
	$(INSTALL) -m 755 $(TARGET)/libarchipelago.so $(DESTDIR)$(LIBDIR)/libarchipelago.so.$(VERSION)
	ln -sf libarchipelago.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libarchipelago.so.0
	ln -sf libarchipelago.so.0 $(DESTDIR)$(LIBDIR)/libarchipelago.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' \
	    archipelago.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/archipelago.pc
	$(INSTALL) -d $(DESTDIR)$(TMPFILES)
	echo 'd /run/archipelago 1777 root root -' >$(DESTDIR)$(TMPFILES)/archipelago.conf
	$(INSTALL) -d $(DESTDIR)$(MANDIR) $(DESTDIR)$(BASH_WORDS) $(DESTDIR)$(ZSH_WORDS) $(DESTDIR)$(FISH_WORDS)
	$(TARGET)/archipelago man $(DESTDIR)$(MANDIR)
	$(TARGET)/archipelago completions bash >$(DESTDIR)$(BASH_WORDS)/archipelago
	$(TARGET)/archipelago completions zsh >$(DESTDIR)$(ZSH_WORDS)/_archipelago
	$(TARGET)/archipelago completions fish >$(DESTDIR)$(FISH_WORDS)/archipelago.fish

## uninstall  what `install` installed with the same PREFIX
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/archipelago $(DESTDIR)$(PREFIX)/include/archipelago.h
	rm -f $(DESTDIR)$(LIBDIR)/libarchipelago.so* $(DESTDIR)$(LIBDIR)/pkgconfig/archipelago.pc
	rm -f $(DESTDIR)$(TMPFILES)/archipelago.conf
	rm -f $(DESTDIR)$(MANDIR)/archipelago*.1 $(DESTDIR)$(BASH_WORDS)/archipelago
	rm -f $(DESTDIR)$(ZSH_WORDS)/_archipelago $(DESTDIR)$(FISH_WORDS)/archipelago.fish

## clean      what was built here (the cache in ~/.cache/archipelago stays)
clean:
	$(CARGO) clean

help:
	@sed -n 's/^## //p' Makefile
