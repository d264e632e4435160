# Everything here needs Go; witnesses (nft, wg, openssl) make more tests run.
GO ?= go
export CGO_ENABLED ?= 0

.PHONY: build test ci fmt vet lint race fuzz cross demo image bench leaktest vulncheck image-test

build:
	$(GO) build -trimpath -o bin/ ./cmd/...

test:
	$(GO) test ./...

ci: fmt vet lint race fuzz cross demo

fmt:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not formatted:"; echo "$$out"; exit 1; fi

vet:
	$(GO) vet ./...

# staticcheck's own list; suppressions name their reason in the code.
lint:
	$(GO) tool staticcheck ./...

# The race detector needs cgo and a C compiler. The codec (enroll/cmp) starts no goroutine.
race:
	CGO_ENABLED=1 $(GO) test -race -short ./quarantine/... ./enroll ./enroll/client ./pki ./appliance/... ./internal/agent ./internal/alert ./internal/attest ./internal/audit ./internal/console ./internal/daemon ./internal/listener ./internal/manage ./internal/plane ./internal/portal ./internal/posture ./internal/resolver ./internal/seal ./internal/store ./internal/stream

# A number of inputs, not a time: one that ends by time fails now and then with "context
# deadline exceeded" (golang.org/issue/75804).
FUZZTIME ?= 5000x
fuzz:
	@set -e; for f in $$(git grep -lE '^func Fuzz' -- '*_test.go'); do \
	  for t in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' $$f); do \
	    echo "fuzzing $$t in $$(dirname $$f)"; \
	    $(GO) test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./$$(dirname $$f); \
	  done; done

cross:
	GOARCH=arm64 $(GO) build -o /dev/null ./cmd/lazaretd
	GOARCH=arm64 $(GO) build -o /dev/null ./cmd/lazaretctl
	GOARCH=arm64 $(GO) build -o /dev/null ./cmd/lazaret
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/lazaret
	GOOS=windows GOARCH=amd64 $(GO) build -o /dev/null ./cmd/lazaret

demo:
	$(GO) run ./cmd/demo --json

# The appliance's disk image and update file, in IMAGE_OUT; Debian packages are fetched once
# and kept. IMAGE_FLAVOUR=metal is for real machines, VirtualBox and VMware's first choice of
# card. UPDATE_KEYS are the public keys that the image takes updates from; without any, a
# key is made in bin/keys, once, which is good for trying; what is in IMAGE_OUT may be published.
VERSION ?= 0.1.0
IMAGE_ARCH ?= amd64
IMAGE_FLAVOUR ?= cloud
IMAGE_OUT ?= bin/image
UPDATE_KEYS ?= bin/keys/update.key.pub.pem
# The clock of a machine is never before the time of the newest commit, where git knows it.
image: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)
image: $(UPDATE_KEYS)
	mkdir -p $(IMAGE_OUT)
	GOARCH=$(IMAGE_ARCH) GOAMD64=v1 GOFLAGS= $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X lazaret/internal/version.Number=$(VERSION)" -o $(IMAGE_OUT)/lazaretd-$(IMAGE_ARCH) ./cmd/lazaretd
	$(GO) run ./cmd/mkimage build --arch $(IMAGE_ARCH) --flavour $(IMAGE_FLAVOUR) --version $(VERSION) $(addprefix --update-key ,$(UPDATE_KEYS)) --program $(IMAGE_OUT)/lazaretd-$(IMAGE_ARCH) --out $(IMAGE_OUT) $(IMAGE)

bin/keys/update.key.pub.pem:
	mkdir -p -m 700 bin/keys
	$(GO) run ./cmd/mkimage key new bin/keys/update.key

# Boots what was built under QEMU and takes it through its life, by emulation alone.
image-test: image
	LAZARET_IMAGE=$(abspath $(IMAGE_OUT)) LAZARET_UPDATE_KEY=$(abspath bin/keys/update.key) $(GO) test -count=1 -timeout $(if $(LONG),8h,30m) -v ./internal/vm ./internal/imagetest

# BENCH="--only packet,tunnel --json" chooses rows and form, BENCH=--long adds what takes minutes.
bench:
	$(GO) run ./internal/bench $(BENCH)

# Every attack in every stage of a device, each with its control, then both processes
# killed again and again under attack. LONG=1 does far more of both. LEAKTEST=--json writes
# the whole table of cases to standard output.
leaktest:
	$(GO) run ./internal/leak/leaktest $(LEAKTEST)
	@out=$$($(GO) test -count=1 -timeout 24h -run '^TestKills$$' -v ./internal/chaos 2>&1); code=$$?; \
	if [ $$code -ne 0 ]; then echo "$$out" >&2; else echo "$$out" | sed -nE 's/^ *[a-z_]+\.go:[0-9]+: (kills survived)/\1/p' >&2; fi; exit $$code

# Its database is on the network; where that cannot be reached it says "not run".
vulncheck:
	@out=$$($(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./... 2>&1); code=$$?; echo "$$out" | tail -n 40; \
	if echo "$$out" | grep -q 'exit status 3'; then echo "vulnerability check: found something"; exit 1; \
	elif [ $$code -ne 0 ]; then echo "vulnerability check: not run"; fi
