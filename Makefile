# make demo        build it and watch two agents at work
# make test        run all tests
# make sim SEED=7 STEPS=100000   run the simulator on one seed, or on SEEDS=… seeds; print TRACE=… lines on failure
# make sim-breaks  break the core on purpose and check that the simulator notices (needs python3)
# make test-agents run real coding agents from npm and PyPI with a model on loopback (needs root, node, python3.12)
# make test-machines run hubs, guests and strangers in network namespaces (needs root, ip, python3, PyPI)
# make test-store  inject faults into three hubs and three members of etcd under load for FAULTS_FOR=600 seconds (needs
#                  etcd, etcdctl, python3; with root, ip and openssl, each of them runs on its own machine)
# make kills       kill -9 broker and sessions of the release build, N=1000 times with SEED=1
# make load        run 100 sessions, IDLE=1000 silent connections and three hostile clients for MINUTES=10
# make fleet       run SESSIONS=5000 sessions of other machines on one hub, idle and in a storm of reconnects
# make bench       print a table of speed, size and growth, with the floors of this machine; ROWS="verbs push" prints two
#                  groups, and MILLIONS=10 lets the mesh hold ten million messages and events instead of one million
# make count       count the instructions of a verb, calls and a hook, and show the last merged values beside the counts
#                  (needs valgrind, python3); RECORD=1 records the new counts
# make link-order  record which functions a verb, a hook, a session and their broker call, so that the linker puts them
#                  beside each other (needs valgrind, python3)
# make fuzz        fuzz the decoders: TARGET=lines SECONDS=600, or all of them without TARGET
# make coverage    run all tests and show which lines of the program they run, by folder (needs python3, LLVM's tools:
#                  in Debian llvm-22); WORDS="--test mail" runs some tests
# make audit       check the crates for known vulnerabilities, licenses and sources
# make check       formatting, lints and documentation
# make check-macos check types and lints for macOS, and link, but run nothing (needs Debian, python3, PyPI)
# make check-aarch64  build for aarch64 Linux and run the core of the tests with qemu (needs Debian, python3, PyPI)
# make install     install into $(DESTDIR)$(PREFIX) what make has built; builds nothing if no source is newer, so that
#                  root needs no cargo after make
# make deb         build a Debian package in target/deb (needs dpkg-dev, python3)
# make dist        build a source archive in target/dist with all crates, which compiles without a network
# make npm         build the npm packages in target/npm, for the platforms in target/programs (needs python3)
# make wheels      build the Python packages in target/wheels, for the same platforms (needs python3, 3.11 or newer)
# make plugins     write target/plugins: a Claude Code plugin, a Gemini extension, skills, server.json, .mcpb bundles
# make html        turn the help topics into plain pages in target/html (needs python3)
# make recording   record the demo again for the README (needs python3)
# make packages    build all packages, and the Debian package once more from the source archive (needs root)
# make test-packages  build all packages and use them as users do (needs root, lintian, debootstrap, node, PyPI);
#                  with PACKAGES= it builds none, and uses those that are there
# STATIC=1         link the C library statically: a verb then starts in two thirds of the time
# FEATURES=tls     build with TLS to etcd, which the packages have
# LINK_ORDER=      for a linker that reads no linker scripts, such as mold: a verb then starts a little later

# make notes here what it has built, so that make install installs that without the settings of make: sudo drops the
# environment, and root may have no cargo.
BUILT = target/built.mk
ifeq ($(MAKECMDGOALS),install)
-include $(BUILT)
endif
ifneq ($(CARGO_TARGET_DIR),)
export CARGO_TARGET_DIR
endif

PREFIX ?= /usr/local
DESTDIR ?=
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
# Below a home directory, systemd looks for units only in share.
UNITDIR ?= $(PREFIX)/$(if $(and $(HOME),$(filter $(HOME)/%,$(PREFIX))),share,lib)/systemd/user
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
CARGO ?= cargo
STATIC ?= 0
FEATURES ?=
N ?= 1000
SEED ?= 1
MINUTES ?= 10
IDLE ?= 1000
PACKAGES ?= packages
SESSIONS ?= 5000
# To install, root may have no rustc; then a static program that is already there says for which platform it is.
HOST := $(or $(BUILT_HOST),$(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p'),$(firstword $(notdir $(wildcard target/static/*-*))))

FLAGS = --locked $(addprefix --features ,$(FEATURES))
DEBUG = $(or $(CARGO_TARGET_DIR),target)/debug

# The linker puts the functions of short-lived processes beside each other.
LINK_ORDER ?= $(if $(findstring linux,$(HOST)),src/link_order.ld)
RELEASE = $(CARGO) rustc --release $(FLAGS) --bin slm-mesh
ORDERED = $(if $(LINK_ORDER),-- -C link-arg=-Wl$(,)-T$(,)$(abspath $(LINK_ORDER)))
, := ,

ifeq ($(STATIC),1)
# With --target the flags do not apply to build scripts, which must stay dynamic.
BUILD = RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" $(RELEASE) --target $(HOST) --target-dir target/static $(ORDERED)
BIN = target/static/$(HOST)/release/slm-mesh
else
BUILD = $(RELEASE) $(ORDERED)
BIN = $(or $(CARGO_TARGET_DIR),target)/release/slm-mesh
endif
# Whether BIN is the program that make has noted, and has not been rebuilt since.
IS_NOTED = $(and $(BUILT_BIN),$(filter $(BUILT_BIN),$(BIN)),$(shell test $(BIN) -nt $(BUILT) || echo yes))

# The fuzz targets; tests/properties defines what must hold for each.
TARGETS = lines mcp http hooks globs calls configs discovery shell
SECONDS ?= 600
# What make audit checks. Advisories need access to github.com; without it use CHECKS="licenses bans sources".
CHECKS ?= advisories licenses bans sources

.PHONY: all demo test sim sim-breaks test-agents test-machines test-store test-packages check bench count link-order coverage fuzz audit kills load fleet install \
  uninstall packages deb dist rebuilt program npm wheels check-macos check-aarch64 plugins html recording

all:
	$(BUILD)
	@touch -c $(BIN)
ifeq ($(filter-out all,$(MAKECMDGOALS)),)
	@mkdir -p $(dir $(BUILT)) && rm -f $(BUILT)
	@printf '%s\n' 'BUILT_BIN = $(BIN)' 'BUILT_FEATURES = $(FEATURES)' 'BUILT_HOST = $(HOST)' 'STATIC ?= $(STATIC)' \
	  'FEATURES ?= $(FEATURES)' $(if $(CARGO_TARGET_DIR),'CARGO_TARGET_DIR ?= $(CARGO_TARGET_DIR)') > $(BUILT)
endif

# If cargo finds that a newer source changes nothing, it leaves the program as old as it was; hence the touch.
$(BIN): $(shell find src -type f) build.rs Cargo.toml Cargo.lock
	$(BUILD)
	@touch -c $(BIN)

demo:
	@$(CARGO) build $(FLAGS) --quiet --bin slm-mesh --example demo
	@$(DEBUG)/examples/demo $(DEBUG)/slm-mesh

test:
	$(CARGO) test $(FLAGS)

SEED ?= 1
SEEDS ?= 1
STEPS ?= 100000
TRACE ?= 50

# How long faults are injected into hubs and members of etcd, in seconds.
FAULTS_FOR ?= 600
CHECKER = tests/hub_failures/linearizability

sim:
	@SLM_MESH_SIM_SEED=$(SEED) SLM_MESH_SIM_SEEDS=$(SEEDS) SLM_MESH_SIM_STEPS=$(STEPS) SLM_MESH_SIM_TRACE=$(TRACE) \
	  $(CARGO) test --release --locked --quiet --test simulate the_promises -- --nocapture

sim-breaks:
	@CARGO=$(CARGO) python3 tests/simulate/breaks.py

test-agents: all
	python3 tests/agents/run.py --program $(BIN) $(AGENTS)

test-machines:
	$(CARGO) build $(FLAGS) --quiet --bin slm-mesh --example announcer
	python3 tests/machines/run.py --program $(DEBUG)/slm-mesh --announcer $(DEBUG)/examples/announcer

# A hub talks to etcd on another machine only over TLS. If the linearizability checker can't be built, the run says that
# there is no second opinion.
test-store: FEATURES = tls
test-store: all
	-$(CARGO) build --locked --quiet --release --manifest-path $(CHECKER)/Cargo.toml --target-dir target/checker
	python3 tests/hub_failures/run.py --program $(BIN) --seconds $(FAULTS_FOR) --seed $(SEED) \
	  --checker target/checker/release/slm-mesh-linearizability

check:
	$(CARGO) fmt --check
	$(CARGO) clippy $(FLAGS) --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc $(FLAGS) --no-deps --quiet

check-macos:
	.ci/macos

check-aarch64:
	.ci/aarch64

bench: all
	@SLM_MESH_BIN=$(abspath $(BIN)) SLM_MESH_BENCH_MILLIONS=$(MILLIONS) $(CARGO) bench --locked --quiet --bench table -- $(ROWS)

count: all
	@python3 tests/bench/count.py --program $(BIN) $(if $(RECORD),--record)

link-order:
	CARGO_PROFILE_RELEASE_STRIP=none $(MAKE) all STATIC=1 FEATURES=tls BUILT=target/link_order.mk
	@python3 tests/bench/link_order.py --program target/static/$(HOST)/release/slm-mesh --output src/link_order.ld

# The tests are built with counters in a directory of their own, target/coverage.
coverage: target/tools/bin/cargo-llvm-cov
	@PATH="$(CURDIR)/target/tools/bin:$$PATH" python3 tests/coverage/run.py -- $(WORDS)

kills:
	SLM_MESH_KILLS=$(N) SLM_MESH_SEED=$(SEED) $(CARGO) test --release --locked --test kills -- --nocapture

load: all
	@SLM_MESH_BIN=$(abspath $(BIN)) $(CARGO) bench --locked --quiet --bench load -- $(MINUTES) $(IDLE)

fleet: all
	@SLM_MESH_BIN=$(abspath $(BIN)) $(CARGO) bench --locked --quiet --bench fleet -- $(SESSIONS)

target/tools/bin/%:
	$(CARGO) install --quiet --locked --root target/tools --target-dir target/tools $*

# Needs a C++ compiler, because libFuzzer is built from its crate, but no nightly compiler: without a
# sanitizer the stable compiler's coverage is enough. New inputs and crashes are kept in target/fuzz/found.
fuzz: target/tools/bin/cargo-fuzz
	PATH="$(CURDIR)/target/tools/bin:$$PATH" $(CARGO) fuzz build --fuzz-dir tests/fuzz --sanitizer none --target-dir target/fuzz
	@for target in $(or $(TARGET),$(TARGETS)); do \
	  mkdir -p target/fuzz/found/$$target && \
	  target/fuzz/$(HOST)/release/$$target -max_total_time=$(SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
	    -print_final_stats=1 -artifact_prefix=target/fuzz/found/$$target- target/fuzz/found/$$target tests/fuzz/corpus/$$target || exit 1; \
	done

audit: target/tools/bin/cargo-deny
	PATH="$(CURDIR)/target/tools/bin:$$PATH" $(CARGO) deny --locked --config .cargo/deny.toml check $(CHECKS)

# The installed files that make writes itself. Every user may read them, whatever the umask.
WRITTEN = "$(DESTDIR)$(UNITDIR)/slm-mesh.service" "$(DESTDIR)$(BASHDIR)/slm-mesh" "$(DESTDIR)$(ZSHDIR)/_slm-mesh" \
  "$(DESTDIR)$(FISHDIR)/slm-mesh.fish"

# Without a note, make can't see with which features the program was built.
install: $(if $(if $(IS_NOTED),$(filter-out "$(BUILT_FEATURES)","$(FEATURES)"),$(FEATURES)),all,$(BIN))
	umask 022; install -d "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(MANDIR)/man1" "$(DESTDIR)$(UNITDIR)" "$(DESTDIR)$(BASHDIR)" \
	  "$(DESTDIR)$(ZSHDIR)" "$(DESTDIR)$(FISHDIR)"
	install -m 755 $(BIN) "$(DESTDIR)$(BINDIR)/slm-mesh"
	install -m 644 man/slm-mesh.1 "$(DESTDIR)$(MANDIR)/man1/slm-mesh.1"
	sed 's|@BINDIR@|$(BINDIR)|' man/slm-mesh.service > "$(DESTDIR)$(UNITDIR)/slm-mesh.service"
	$(BIN) help completions bash > "$(DESTDIR)$(BASHDIR)/slm-mesh"
	$(BIN) help completions zsh > "$(DESTDIR)$(ZSHDIR)/_slm-mesh"
	$(BIN) help completions fish > "$(DESTDIR)$(FISHDIR)/slm-mesh.fish"
	chmod 644 $(WRITTEN)

uninstall:
	rm -f "$(DESTDIR)$(BINDIR)/slm-mesh" "$(DESTDIR)$(MANDIR)/man1/slm-mesh.1" $(WRITTEN)

# The date of packaged files. A source archive has no git history, so there Cargo.toml carries the date.
deb dist rebuilt npm wheels plugins: export SOURCE_DATE_EPOCH ?= $(shell test -e .git && git log -1 --format=%ct || stat -c %Y Cargo.toml)

deb:
	.ci/package/deb

dist:
	.ci/package/dist

rebuilt: dist
	.ci/package/rebuilt

program:
	.ci/package/program

npm: program
	.ci/package/npm/pack

# A bundle is made for each program in target/programs; make program builds those that this machine can build.
plugins: all
	.ci/package/plugins --program $(BIN) $(if $(URL),--url $(URL))

html: all
	.ci/package/html --program $(BIN)

recording:
	@$(CARGO) build --locked --quiet --bin slm-mesh --example demo
	.ci/package/recording

wheels: program
	.ci/package/wheels

packages: deb dist rebuilt npm wheels

test-packages: $(PACKAGES)
	tests/packages/run
