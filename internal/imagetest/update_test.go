package imagetest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
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
	if _, err := os.Stat(updateKey() + release.PublicSuffix); err != nil {
		t.Skipf("needs the public key of updates: %v", err)
	}
	path, err := buildSlot(t.Context(), t.TempDir(), version, program)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func buildSlot(ctx context.Context, dir, version, program string) (string, error) {
	r, err := buildImage(ctx, image.Config{Version: version, Program: program, Out: dir})
	return r.UKI, err
}

// buildImage makes an image with the packages that make image has fetched, which takes the
// updates that the built one takes; for virtual machines, unless c says otherwise.
func buildImage(ctx context.Context, c image.Config) (image.Result, error) {
	list, err := packages.Pinned()
	keys, err2 := os.ReadFile(updateKey() + release.PublicSuffix)
	cache, err3 := os.UserCacheDir()
	if err := errors.Join(err, err2, err3); err != nil {
		return image.Result{}, err
	}
	c.Arch, c.Flavour, c.Packages, c.Keys, c.Log = "amd64", cmp.Or(c.Flavour, "cloud"), list, keys, slog.New(slog.DiscardHandler)
	c.Store = &packages.Store{Dir: filepath.Join(cache, "lazaret", "packages"), Log: c.Log}
	return image.Build(ctx, c)
}

// ofOurs makes the image of a test whose program is lazaretd of c's version, built with more flags.
func ofOurs(t testing.TB, c image.Config, flags ...string) image.Result {
	t.Helper()
	built(t, ".raw") // or skip: the packages were fetched with that
	c.Program = program(t, "./cmd/lazaretd", append([]string{"-buildvcs=false", "-ldflags", "-s -w -X lazaret/internal/version.Number=" + c.Version}, flags...)...)
	c.Out = t.TempDir()
	r, err := buildImage(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newSlot builds a program of ours, and a slot of it.
func newSlot(ctx context.Context, dir, version, of string, flags ...string) (string, error) {
	program, err := buildProgram(ctx, dir, of, flags...)
	if err != nil {
		return "", err
	}
	return buildSlot(ctx, dir, version, program)
}

// meanwhile makes something while the test goes on, and returns what waits for it.
func meanwhile(t testing.TB, do func(context.Context) (string, error)) func(testing.TB) string {
	var made string
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		made, err = do(t.Context())
	}()
	t.Cleanup(func() { <-done })
	return func(t testing.TB) string {
		t.Helper()
		if <-done; err != nil {
			t.Fatal(err)
		}
		return made
	}
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

// signingKey is the private key that the image takes updates from.
func signingKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	key, err := release.LoadKey(updateKey())
	if err != nil {
		t.Skipf("needs the key that the image takes updates from: %v", err)
	}
	return key
}

// refusals: what is no update for this machine is not taken, and nothing is left of it.
func (l *life) refusals(t *testing.T) {
	key, path := signingKey(t), l.bad(t)
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := bundle(t, update.Manifest{Version: "0.1.2", Architecture: "amd64"}, path, key)
	tampered := bytes.Clone(good)
	tampered[len(tampered)/2] ^= 1
	for name, b := range map[string][]byte{
		"tampered": tampered, "truncated": good[:len(good)-1000],
		"of a stranger":        bundle(t, update.Manifest{Version: "0.1.2", Architecture: "amd64"}, path, stranger),
		"older":                bundle(t, update.Manifest{Version: "0.0.9", Architecture: "amd64"}, path, key),
		"of another processor": bundle(t, update.Manifest{Version: "0.1.2", Architecture: "arm64"}, path, key),
		"another than it says": bundle(t, update.Manifest{Version: "0.1.3", Architecture: "amd64"}, path, key),
	} {
		if code, err := l.ask(soon(t), l.admin, "POST", "/api/v1/machine/update", bytes.NewReader(b), nil); err == nil || code >= 500 {
			t.Errorf("an update that is %s: %d, %v", name, code, err)
		} else {
			t.Logf("an update that is %s: %v", name, err)
		}
	}
	var m api.Machine
	l.must(t, "GET", "/api/v1/machine", nil, &m)
	if len(m.Slots) != 1 || !m.Slots[0].Booted {
		t.Errorf("the slots are %+v", m.Slots)
	}
}

// update takes an update. The new version is one that takes orders on the second serial
// line, for the steps after this.
func (l *life) update(t *testing.T) {
	key := signingKey(t)
	if running := awaitsVersion(t, l); running == "" || strings.HasPrefix(running, "0.1.1") {
		t.Errorf("it runs %q before the update", running)
	}
	good := bundle(t, update.Manifest{Version: "0.1.1", Architecture: "amd64"}, l.next(t), key)
	begin := time.Now()
	l.must(t, "POST", "/api/v1/machine/update?reboot=true", bytes.NewReader(good), nil)
	t.Logf("from the upload to its answer: %v", time.Since(begin).Round(time.Second))
	l.startsAgain(t)
	awaits(t, l.v, "the new slot enforces", func(w map[string]string) bool { return ready(w) && w["version"] == "0.1.1" })
	l.orders = true
	l.kept(t)
	awaitsBlessed(t, l, "0.1.1")
	t.Logf("from the upload to the new slot blessed: %v", time.Since(begin).Round(time.Second))
}

// badUpdate: a version that does not start is left, and the one before runs as it did.
func (l *life) badUpdate(t *testing.T) {
	bad := bundle(t, update.Manifest{Version: "0.1.2", Architecture: "amd64"}, l.bad(t), signingKey(t))
	before := awaitsVersion(t, l)
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
	awaits(t, l.v, "the slot before it is back", func(w map[string]string) bool { return ready(w) && w["version"] == before })
	t.Logf("from the upload of a bad slot to the good one: %v", time.Since(begin).Round(time.Second))
	l.kept(t)
}

// awaitsVersion is the version that runs, by the API.
func awaitsVersion(t *testing.T, l *life) string {
	t.Helper()
	var m api.Machine
	l.must(t, "GET", "/api/v1/machine", nil, &m)
	return m.Version
}
