package packages

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTableIsWhole: for both architectures and flavours there is a kernel, a loader and
// trust, and no file has two hashes.
func TestTableIsWhole(t *testing.T) {
	list, err := Pinned()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for _, p := range list {
		if files[p.File()] {
			t.Errorf("%s is pinned twice", p.File())
		}
		files[p.File()] = true
		if !strings.HasSuffix(p.File(), "_"+p.Arch+".deb") || !strings.Contains(p.File(), p.Version) {
			t.Errorf("%s does not belong to %s %s for %s", p.File(), p.Name, p.Version, p.Arch)
		}
		if _, err := hex.DecodeString(p.SHA256); err != nil {
			t.Errorf("%s: %v", p.File(), err)
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, flavour := range []string{"cloud", "metal"} {
			k, err := Kernel(list, arch, flavour)
			if err != nil || k.Arch != arch || strings.Contains(k.Name, "cloud") != (flavour == "cloud") {
				t.Errorf("kernel of %s, %s: %v, %v", arch, flavour, k.Name, err)
			}
		}
		for _, name := range []string{"systemd-boot-efi", "ca-certificates"} {
			if _, err := Find(list, name, arch); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := Kernel(list, "riscv64", "cloud"); err == nil {
		t.Error("a kernel for a machine there is no image for")
	}
}

func TestTableRefuses(t *testing.T) {
	for _, text := range []string{"a 1 all p 1\n", "a 1 all p x " + strings.Repeat("0", 64), "a 1 all p 0 " + strings.Repeat("0", 64), "a 1 all p 1 abc"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q: accepted", text)
		}
	}
}

const body = "the package"

func pkg() Package {
	sum := sha256.Sum256([]byte(body))
	return Package{Name: "x", Version: "1+b", Arch: "amd64", Path: "debian/pool/x_1+b_amd64.deb", Size: int64(len(body)), SHA256: hex.EncodeToString(sum[:])}
}

// serve answers for two archives: the paths of each and what they give.
func serve(t *testing.T, mirror, snapshot string) *Store {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := ""
		switch {
		case r.URL.Path == "/mirror/debian/pool/x_1+b_amd64.deb":
			text = mirror
		case strings.HasPrefix(r.URL.Path, "/snapshot/archive/debian/20") && strings.HasSuffix(r.URL.Path, "Z/pool/x_1+b_amd64.deb"):
			text = snapshot
		}
		if text == "" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(text))
	}))
	t.Cleanup(srv.Close)
	return &Store{Dir: filepath.Join(t.TempDir(), "packages"), Mirror: srv.URL + "/mirror", Snapshot: srv.URL + "/snapshot/", Log: slog.New(slog.DiscardHandler)}
}

func TestFetchesOnceAndChecks(t *testing.T) {
	for name, c := range map[string]struct {
		mirror, snapshot string
		ok               bool
	}{
		"from the mirror":         {body, "", true},
		"from the snapshot":       {"", body, true},
		"mirror has another":      {"The package", body, true},
		"mirror has a longer one": {body + "!", body, true},
		"cut short everywhere":    {body[:5], body[:5], false},
		"another everywhere":      {"The package", "The package", false},
		"nowhere":                 {"", "", false},
	} {
		s := serve(t, c.mirror, c.snapshot)
		file, err := s.Get(t.Context(), pkg())
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
			continue
		}
		kept, _ := os.ReadDir(s.Dir)
		if !c.ok {
			if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get download x:amd64=1+b") || len(kept) != 0 {
				t.Errorf("%s: %v; kept %v", name, err, kept)
			}
			continue
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != body || len(kept) != 1 {
			t.Errorf("%s: %q, %v; kept %v", name, got, err, kept)
		}
		s.Offline = true
		if again, err := s.Get(t.Context(), pkg()); err != nil || again != file {
			t.Errorf("%s: not kept: %v", name, err)
		}
	}
}

// TestRefusesAnotherFile: what lies in the directory with another hash is neither used nor
// overwritten.
func TestRefusesAnotherFile(t *testing.T) {
	s := serve(t, body, "")
	s.Dir = t.TempDir()
	file := filepath.Join(s.Dir, pkg().File())
	if err := os.WriteFile(file, []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), pkg()); err == nil || !strings.Contains(err.Error(), "is pinned") {
		t.Error(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "another" {
		t.Error("it was overwritten")
	}
	s.Dir, s.Offline = t.TempDir(), true
	if _, err := s.Get(t.Context(), pkg()); !errors.Is(err, ErrMissing) {
		t.Error("fetched in spite of being told not to:", err)
	}
}
