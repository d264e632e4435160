package e2e

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lazaret/enroll/code"
)

// traces are texts and bytes that must be nowhere, by what they are of.
type traces map[string][][]byte

func (s traces) add(of string, forms ...[]byte) { s[of] = append(s[of], forms...) }

// text adds a secret text as it stands, and as JSON would hold it as bytes.
func (s traces) text(of, secret string) {
	encoded := strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "=")
	s.add(of, []byte(secret), []byte(strings.ToLower(secret)), []byte(encoded[:len(encoded)-1]))
}

// in returns what b holds a trace of.
func (s traces) in(b []byte) []string {
	var found []string
	for of, forms := range s {
		if slices.ContainsFunc(forms, func(f []byte) bool { return bytes.Contains(b, f) }) {
			found = append(found, of)
		}
	}
	return found
}

// privateKeys are what every unsealed private key of these kinds bears: in PEM, and the
// beginning of PKCS#8 (RFC 5958) for P-256 and P-384, as it is and in base64.
func privateKeys() traces {
	s := traces{}
	s.add("a private key", []byte("PRIVATE KEY-----"))
	for _, hexText := range []string{"020100301306072a8648ce3d020106082a8648ce3d030107046d", "020100301006072a8648ce3d020106052b8104002204819e"} {
		der, _ := hex.DecodeString(hexText)
		s.add("a private key", der, []byte(base64.StdEncoding.EncodeToString(der)[:32])) // behind three bytes, so the groups stay
	}
	return s
}

// noSecrets looks for the secrets that a gateway was trusted with, in everything that it
// has left: its directory, what it printed, and how its processes were called.
func (g *gateway) noSecrets(t testing.TB) {
	t.Helper()
	secrets := privateKeys()
	secrets.text("the management server's token", g.token)
	if raw, err := base32.StdEncoding.DecodeString(strings.ToUpper(strings.TrimPrefix(g.token, "lzt_"))); err == nil {
		secrets.add("the management server's token", raw)
	}
	g.codesMu.Lock()
	codes := slices.Clone(g.codes)
	g.codesMu.Unlock()
	for _, text := range codes {
		c, err := code.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		of := "one-time password " + c.Reference
		secrets.text(of, c.Secret)
		secrets.add(of, []byte(text), []byte(text[9:])) // groups of five: the secret begins within the second
	}
	control(t, g, secrets)

	keyFile := filepath.Join(g.host.Dir(), "dataplane", "wireguard.key")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(key)))
	if err != nil || len(raw) != 32 {
		t.Fatalf("%s holds no key: %v", keyFile, err)
	}
	secrets.add("the tunnel's private key", raw, bytes.TrimSpace(key), []byte(hex.EncodeToString(raw)))
	if st, err := os.Stat(keyFile); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v; want mode 0600", keyFile, st.Mode(), err)
	}
	files := searchFiles(t, g, secrets, keyFile)
	if files < 5 {
		t.Errorf("only %d files were searched", files)
	}
	for _, p := range g.logs {
		out := p.Output()
		if found := secrets.in([]byte(out)); len(found) > 0 || out == "" {
			t.Errorf("the log of %d bytes holds %v", len(out), found)
		}
	}
	searchProcesses(t, secrets)
}

// control shows that the search finds what it looks for, in the administrator's directory,
// which holds some of it by intent.
func control(t testing.TB, g *gateway, secrets traces) {
	t.Helper()
	token, err1 := os.ReadFile(filepath.Join(g.admin, "management-token"))
	text, err2 := os.ReadFile(filepath.Join(g.admin, "admin-key.pem"))
	block, _ := pem.Decode(text)
	if err1 != nil || err2 != nil || block == nil {
		t.Fatal(err1, err2)
	}
	asJSON := []byte(base64.StdEncoding.EncodeToString(block.Bytes))
	for name, b := range map[string][]byte{"the token": token, "a key in PEM": text, "a key in DER": block.Bytes, "a key in JSON": asJSON} {
		if len(secrets.in(b)) == 0 {
			t.Errorf("the search does not find %s", name)
		}
	}
}

// searchFiles searches the gateway's directory, but for the administrator's files and the
// one that holds the tunnel's key.
func searchFiles(t testing.TB, g *gateway, secrets traces, except string) (files int) {
	t.Helper()
	err := filepath.WalkDir(g.host.Dir(), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == g.admin:
			return filepath.SkipDir
		case !d.Type().IsRegular() || path == except:
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		if found := secrets.in(bytes.TrimRight(b, "\x00")); len(found) > 0 {
			t.Errorf("%s holds %v", path, found)
		}
		return nil
	})
	if err != nil {
		t.Errorf("searching the gateway's files: %v", err)
	}
	return files
}

// searchProcesses searches arguments and environments of every process that can be read.
func searchProcesses(t testing.TB, secrets traces) {
	t.Helper()
	read := 0
	for _, what := range []string{"cmdline", "environ"} {
		paths, err := filepath.Glob("/proc/[0-9]*/" + what)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // gone, or another user's
			}
			if read++; len(secrets.in(b)) > 0 {
				t.Errorf("%s holds %v: %.60q", path, secrets.in(b), b)
			}
		}
	}
	if read < 10 {
		t.Errorf("only %d process entries could be read", read)
	}
}
