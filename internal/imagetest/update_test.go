package imagetest

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lazaret/appliance/update"
	"lazaret/image"
	"lazaret/image/packages"
	"lazaret/image/release"
	"lazaret/internal/console/api"
)

// updateKey is the private key of updates that the image takes, where make image made one:
// not beside the image, which may be published.
func updateKey() string {
	return cmp.Or(os.Getenv("LAZARET_UPDATE_KEY"), filepath.Join(os.Getenv("LAZARET_IMAGE"), "..", "keys", "update.key"))
}

// slot builds a slot of a version, with the packages that make image has fetched.
func slot(t testing.TB, version, program string) string {
	t.Helper()
	list, err := packages.Pinned()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := os.ReadFile(updateKey() + release.PublicSuffix)
	if err != nil {
		t.Skipf("needs the public key of updates: %v", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	r, err := image.Build(t.Context(), image.Config{
		Arch: "amd64", Flavour: "cloud", Version: version, Program: program, Packages: list, Keys: keys, Out: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Store: &packages.Store{Dir: filepath.Join(cache, "lazaret", "packages"), Log: slog.New(slog.DiscardHandler)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.UKI
}

// bundle signs a slot as an update.
func bundle(t testing.TB, m update.Manifest, uki string, key ed25519.PrivateKey) []byte {
	t.Helper()
	f, err := os.Open(uki)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	m.V, m.Follows = 1, "0.0.1"
	m.Flavour, m.Schema, m.Reads, m.Created = "cloud", update.Schema, update.Schema, time.Now().UTC().Truncate(time.Second)
	if _, err := update.Write(&b, m, f, key); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// update refuses what is no update, and takes one that is. The new version is one that takes
// orders on the second serial line, for the steps after this.
func (l *life) update(t *testing.T) {
	key, err := release.LoadKey(updateKey())
	if err != nil {
		t.Skipf("needs the key that the image takes updates from: %v", err)
	}
	if running := awaitsVersion(t, l); running == "" || strings.HasPrefix(running, "0.1.1") {
		t.Errorf("it runs %q before the update", running)
	}
	next := slot(t, "0.1.1", program(t, "./cmd/lazaretd", "-buildvcs=false", "-ldflags", "-s -w -X lazaret/internal/version.Number=0.1.1", "-tags", "lazarettest"))
	good := bundle(t, update.Manifest{Version: "0.1.1", Architecture: "amd64"}, next, key)
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tampered := bytes.Clone(good)
	tampered[len(tampered)/2] ^= 1
	for name, b := range map[string][]byte{
		"tampered": tampered, "truncated": good[:len(good)-1000],
		"of a stranger":        bundle(t, update.Manifest{Version: "0.1.1", Architecture: "amd64"}, next, stranger),
		"older":                bundle(t, update.Manifest{Version: "0.0.9", Architecture: "amd64"}, next, key),
		"of another processor": bundle(t, update.Manifest{Version: "0.1.1", Architecture: "arm64"}, next, key),
	} {
		if code, err := l.ask(soon(t), l.admin, "POST", "/api/v1/machine/update", bytes.NewReader(b), nil); err == nil || code >= 500 {
			t.Errorf("an update that is %s: %d, %v", name, code, err)
		} else {
			t.Logf("an update that is %s: %v", name, err)
		}
	}
	begin := time.Now()
	l.must(t, "POST", "/api/v1/machine/update?reboot=true", bytes.NewReader(good), nil)
	l.startsAgain(t)
	awaits(t, l.v, "the new slot enforces", func(w map[string]string) bool { return ready(w) && w["version"] == "0.1.1" })
	l.enforces(t)
	awaitsBlessed(t, l, "0.1.1")
	t.Logf("from the upload to the new slot blessed: %v", time.Since(begin).Round(time.Second))
	l.orders = true
	l.connect(t)
	until(t, "the management server answers the new slot's device", func() error { return echoes(t, l.phone.quarantine, l.management) })
}

// badUpdate: a version that does not start is left, and the one before runs as it did.
func (l *life) badUpdate(t *testing.T) {
	l.needsOrders(t)
	key, err := release.LoadKey(updateKey())
	if err != nil {
		t.Fatal(err)
	}
	bad := bundle(t, update.Manifest{Version: "0.1.2", Architecture: "amd64"}, slot(t, "0.1.2", program(t, "./internal/imagetest/testdata/panics")), key)
	begin := time.Now()
	l.must(t, "POST", "/api/v1/machine/update?reboot=true", bytes.NewReader(bad), nil)
	for range update.Tries { // it panics each time, and is left then
		l.startsAgain(t)
		l.v.Alarm(nil)
		if _, err := l.v.Expect(soon(t), regexp.MustCompile(`Kernel panic`)); err != nil {
			t.Fatal(err)
		}
	}
	l.startsAgain(t)
	awaits(t, l.v, "the slot before it is back", func(w map[string]string) bool { return ready(w) && w["version"] == "0.1.1" })
	t.Logf("from the upload of a bad slot to the good one: %v", time.Since(begin).Round(time.Second))
	l.enforces(t)
	l.connect(t)
	l.forbidden(t)
}

// awaitsVersion is the version that runs, by the API.
func awaitsVersion(t *testing.T, l *life) string {
	t.Helper()
	var m api.Machine
	l.must(t, "GET", "/api/v1/machine", nil, &m)
	return m.Version
}
