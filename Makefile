# make demo        build, and see two agents at work
# make test        all tests
# make test-agents real coding agents from npm, on a model on loopback (root, node, python3)
# make kills       kill -9 of broker and sessions, N=1000 times with SEED=1, against the released program
# make load        a hundred sessions, IDLE=1000 silent connections and three pests for MINUTES=10
# make install     into $(DESTDIR)$(PREFIX)
# STATIC=1         link the C library statically: a verb starts in two thirds of the time

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
STATIC ?= 0
N ?= 1000
SEED ?= 1
MINUTES ?= 10
IDLE ?= 1000
BINDIR = $(DESTDIR)$(PREFIX)/bin
SHARE = $(DESTDIR)$(PREFIX)/share
HOST := $(shell rustc -vV | sed -n 's/^host: //p')

ifeq ($(STATIC),1)
# --target keeps the flags away from build scripts, which must stay dynamic.
BUILD = RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" $(CARGO) build --release --locked --target $(HOST) --target-dir target/static
BIN = target/static/$(HOST)/release/slm-mesh
else
BUILD = $(CARGO) build --release --locked
BIN = target/release/slm-mesh
endif

.PHONY: all demo test test-agents check bench kills load install uninstall

all:
	$(BUILD)

demo:
	@$(CARGO) build --locked --quiet --bin slm-mesh --example demo
	@target/debug/examples/demo target/debug/slm-mesh

test:
	$(CARGO) test --locked

test-agents: all
	python3 tests/agents/run.py --program $(BIN) $(AGENTS)

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --no-deps --quiet

bench: all
	@SLM_MESH_BIN=$(CURDIR)/$(BIN) $(CARGO) bench --locked --quiet --bench table -- $(ROWS)

kills:
	SLM_MESH_KILLS=$(N) SLM_MESH_SEED=$(SEED) $(CARGO) test --release --locked --test kills -- --nocapture

load: all
	@SLM_MESH_BIN=$(CURDIR)/$(BIN) $(CARGO) bench --locked --quiet --bench load -- $(MINUTES) $(IDLE)

install: all
	install -d $(BINDIR) $(SHARE)/man/man1 $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	install -m 755 $(BIN) $(BINDIR)/slm-mesh
	install -m 644 man/slm-mesh.1 $(SHARE)/man/man1/slm-mesh.1
	$(BIN) help completions bash > $(SHARE)/bash-completion/completions/slm-mesh
	$(BIN) help completions zsh > $(SHARE)/zsh/site-functions/_slm-mesh
	$(BIN) help completions fish > $(SHARE)/fish/vendor_completions.d/slm-mesh.fish

uninstall:
	rm -f $(BINDIR)/slm-mesh $(SHARE)/man/man1/slm-mesh.1 $(SHARE)/bash-completion/completions/slm-mesh \
	  $(SHARE)/zsh/site-functions/_slm-mesh $(SHARE)/fish/vendor_completions.d/slm-mesh.fish
