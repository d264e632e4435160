package stream

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The header that a receiver is pushed with goes to nobody else: not when its URL changes, nor
// whom its server is known by, nor the networks it may be in. Other changes leave it.
func TestPushSecretStaysWithItsServer(t *testing.T) {
	l := newLab(t)
	var mu sync.Mutex
	var got []string
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusAccepted)
	}))
	defer other.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw}))
	allow := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for name, c := range map[string]Change{"url": {URL: &other.URL, CA: &ca, Allow: &allow}, "ca": {CA: &ca}, "allow": {Allow: &allow}} {
		if _, _, err := l.Add(context.Background(), boss, Receiver{Name: name, Kind: SSF, URL: "https://siem.example.com/in"}, "Bearer s3cr3t"); err != nil {
			t.Fatal(err)
		}
		audience := "somebody"
		r, err := l.Update(context.Background(), boss, name, Change{Audience: &audience})
		if err != nil {
			t.Fatal(err)
		}
		if with, err := l.credentials(context.Background(), r); err != nil || with.push != "Bearer s3cr3t" {
			t.Errorf("another audience: the header is %q, %v", with.push, err)
		}
		if r, err = l.Update(context.Background(), boss, name, c); err != nil {
			t.Fatal(err)
		}
		if with, err := l.credentials(context.Background(), r); err != nil || with.push != "" {
			t.Errorf("another %s: the header is %q, %v", name, with.push, err)
		}
	}
	if why, err := l.Test(context.Background(), "url"); err != nil || why != "" {
		t.Fatal(why, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) == 0 || slices.ContainsFunc(got, func(h string) bool { return strings.Contains(h, "s3cr3t") }) {
		t.Errorf("the other server was sent %q", got)
	}
}
