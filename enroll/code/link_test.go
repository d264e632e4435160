package code

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestLinkKeepsSecretsInTheFragment(t *testing.T) {
	c, err := Draw(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("root"))
	link := Link("https://gw.example.com:8443/", c.String(), hex.EncodeToString(sum[:]))
	if before, _, ok := strings.Cut(link, "#"); !ok || before != "https://gw.example.com:8443/enroll" || strings.Contains(before, c.Reference) {
		t.Errorf("link %q shows the code to servers", link)
	}
	server, got, root, err := ParseLink(" " + link + "\n")
	if err != nil || server != "https://gw.example.com:8443" || got.String() != c.String() || !bytes.Equal(root, sum[:]) {
		t.Errorf("read back %s %s %x: %v", server, got.Reference, root, err)
	}
	for _, bad := range []string{
		"", c.String(), strings.Replace(link, "https", "http", 1), strings.Replace(link, "/enroll", "/other", 1),
		link[:len(link)-2], strings.Replace(link, ".", "", 3), strings.Replace(link, "#", "?x=1#", 1), strings.Replace(link, "gw", "u:p@gw", 1),
	} {
		_, _, _, err := ParseLink(bad)
		if err == nil {
			t.Errorf("%q was taken for a link", bad)
		} else if strings.Contains(err.Error(), c.Secret) {
			t.Errorf("error shows the secret: %v", err)
		}
	}
	if _, _, _, err := ParseLink("nonsense"); !errors.Is(err, ErrLink) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add("https://gw.example.com/enroll#00000-00000-00000-00000-00000.00")
	f.Add("https://[::1]:8443/enroll#.")
	f.Fuzz(func(t *testing.T, text string) {
		server, c, root, err := ParseLink(text)
		if err == nil && (server == "" || c.String() == "" || len(root) != 32) {
			t.Errorf("%q was read as %s %s %x", text, server, c.Reference, root)
		}
	})
}
