package agent

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/internal/agentapi"
	"lazaret/quarantine/tunnel"
)

// moving makes an agent that has asked for a second tunnel key. Its certificate names the
// second one or not.
func moving(t *testing.T, named bool) (*Agent, *fakeNetwork) {
	t.Helper()
	a, f := newAgent(t)
	for _, name := range []string{wireguardFile, nextWireguard} {
		if _, err := a.store.wireguard(name); err != nil {
			t.Fatal(err)
		}
	}
	if named {
		next, err := a.store.wireguard(nextWireguard)
		if err != nil {
			t.Fatal(err)
		}
		a.state.Certificate = naming(t, next.Public())
	}
	var err error
	if a.keys, err = a.store.loadKeys(a.state); err != nil {
		t.Fatal(err)
	}
	return a, f
}

func naming(t *testing.T, k tunnel.Key) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(cmp.WireGuardURI(k))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestTheCertificateSaysWhichKeyToStartWith.
func TestTheCertificateSaysWhichKeyToStartWith(t *testing.T) {
	for _, named := range []bool{false, true} {
		a, _ := moving(t, named)
		want := map[bool]tunnel.PrivateKey{false: a.keys.current, true: a.keys.next}[named]
		if a.keys.used().Public() != want.Public() {
			t.Errorf("certificate names the next key: %v, and the link starts with the other", named)
		}
	}
}

// TestKeyTurnsWhenTheGatewayHasIt: told twice, the link moves; only an answer that was
// asked for over the new key makes it the only one.
func TestKeyTurnsWhenTheGatewayHasIt(t *testing.T) {
	a, f := moving(t, false)
	synctest.Test(t, func(t *testing.T) {
		first, second := a.keys.current.Public(), a.keys.next.Public()
		without := agentapi.Status{Key: first.String()}
		if ask, err := a.handOver(t.Context(), without); ask || err != nil || a.keys.onNext {
			t.Fatalf("the gateway does not hold the next key: ask %v, %v, turned %v", ask, err, a.keys.onNext)
		}
		with := agentapi.Status{Key: first.String(), Next: second.String()}
		for range 2 {
			if a.keys.onNext {
				t.Fatal("turned at the first word of it")
			}
			if ask, err := a.handOver(t.Context(), with); !ask || err != nil {
				t.Fatalf("ask %v, %v", ask, err)
			}
		}
		if !a.keys.onNext || f.key != second {
			t.Fatal("not turned")
		}
		a.answered(0) // asked before the turn, answered after
		if a.keys.next.IsZero() {
			t.Fatal("an answer over the first key was taken for one over the second")
		}
		a.answered(a.keys.turn)
		if kept, err := a.store.loadKeys(a.state); err != nil || kept.current.Public() != second || !kept.next.IsZero() || a.keys.used().Public() != second {
			t.Errorf("on the disk %s, next %s, %v; want %s alone", kept.current.Public(), kept.next.Public(), err, second)
		}
	})
}

// TestKeyFallsBack: a next key that brings no answer gives way to the first after a while,
// rests, and both stay on the disk.
func TestKeyFallsBack(t *testing.T) {
	a, f := moving(t, true)
	synctest.Test(t, func(t *testing.T) {
		first, second := a.keys.current.Public(), a.keys.next.Public()
		lost := time.Now()
		time.Sleep(keyPatience - time.Second)
		if a.fallBack(lost) {
			t.Fatal("fell back at once")
		}
		time.Sleep(time.Second)
		if !a.fallBack(lost) || f.key != first {
			t.Fatal("did not fall back")
		}
		if a.fallBack(lost) {
			t.Error("went on to the other key at once")
		}
		with := agentapi.Status{Key: first.String(), Next: second.String()}
		if ask, _ := a.handOver(t.Context(), with); ask {
			t.Error("tried the next key again at once")
		}
		time.Sleep(keyAgain)
		if ask, _ := a.handOver(t.Context(), with); !ask {
			t.Error("never tried the next key again")
		}
		if kept, err := a.store.loadKeys(a.state); err != nil || kept.current.Public() != first || kept.next.Public() != second {
			t.Errorf("on the disk: %v %v %v", kept.current.Public(), kept.next.Public(), err)
		}
		time.Sleep(keyPatience)
		if !a.fallBack(lost) || f.key != second {
			t.Error("with no answer at all, the other key is not tried in turn")
		}
	})
	b, _ := newAgent(t)
	if b.fallBack(time.Time{}) {
		t.Error("fell back with one key only")
	}
}

// sendRenewal begins a renewal at a gateway that refuses it, or that is not the right one
// and is sent no request.
func sendRenewal(t *testing.T, a *Agent, right bool) {
	t.Helper()
	requests := 0
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests++
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer srv.Close()
	proof, err := ecdh.X25519().GenerateKey(rand.Reader)
	must(t, err)
	pin := sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo)
	if !right {
		pin[0]++
	}
	a.state.Server, a.state.Root = srv.URL, a.state.Certificate
	a.state.Listeners, a.state.ProofKeyID, a.state.ProofKey = [][]byte{pin[:]}, "k", proof.PublicKey().Bytes()
	want := map[bool]error{true: client.ErrRefused, false: client.ErrInBetween}[right]
	if err := a.renew(t.Context()); !errors.Is(err, want) || requests != map[bool]int{true: 1}[right] {
		t.Fatalf("renewing: %v after %d requests, want %v", err, requests, want)
	}
}

// TestKeyNobodyKnowsIsNotTried: while the gateway cannot hold the next key, an outage does
// not make the link turn to it; once a request for it went out, or the gateway said that it
// holds it, or either may have been before a restart, it does.
func TestKeyNobodyKnowsIsNotTried(t *testing.T) {
	for name, known := range map[string]func(a *Agent){
		"a request": func(a *Agent) {
			if sendRenewal(t, a, false); a.fallBack(time.Now().Add(-time.Hour)) {
				t.Error("turned, and the request was not sent")
			}
			sendRenewal(t, a, true)
		},
		"told": func(a *Agent) {
			if ask, err := a.handOver(t.Context(), agentapi.Status{Next: a.keys.next.Public().String()}); !ask || err != nil {
				t.Errorf("%v %v", ask, err)
			}
		},
		"a restart": func(a *Agent) {
			_, err := a.store.key(nextKeyFile, newCertificateKey)
			must(t, err)
			a.keys, err = a.store.loadKeys(a.state)
			must(t, err)
		},
	} {
		a, _ := moving(t, false)
		lost := time.Now().Add(-time.Hour)
		if a.fallBack(lost) {
			t.Fatal("turned to a key that nobody knows")
		}
		known(a)
		if !a.fallBack(lost) || !a.keys.onNext {
			t.Errorf("%s: not turned to a key that the gateway may hold", name)
		}
		if a.keys.turned = lost; !a.fallBack(lost) || a.keys.onNext {
			t.Errorf("%s: not turned back", name)
		}
	}
	b, _ := newAgent(t)
	if b.noteAsked(); b.keys.asked {
		t.Error("a request that asks for no tunnel key was taken for one")
	}
}

// TestRefusalIsAnAnswer: a gateway that refuses the old certificate has been reached over
// the next key, which it therefore holds.
func TestRefusalIsAnAnswer(t *testing.T) {
	a, _ := moving(t, true)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(agentapi.Problem{Error: "no"})
	}))
	defer srv.Close()
	a.api = &gateway{base: srv.URL, http: srv.Client()}
	next := a.keys.next.Public()
	if _, err := a.ask(t.Context(), true); err == nil {
		t.Fatal("no refusal")
	}
	if a.keys.current.Public() != next {
		t.Error("the next key was shown to work, and is not kept")
	}
	// The renewal whose answer was lost must ask with that same key again.
	if _, err := a.store.key(nextKeyFile, newCertificateKey); err != nil {
		t.Fatal(err)
	}
	k, err := (&renewal{agent: a}).Keys(t.Context())
	if err != nil || tunnel.Key(k.WireGuard.PublicKey().Bytes()) != next {
		t.Errorf("asks with another tunnel key: %v", err)
	}
	if there, _ := a.store.has(nextWireguard); there {
		t.Error("a third key was made")
	}
}

// TestRenewalMakesBothKeysOnce: asked again, it asks with the same, and both are for the
// owner alone.
func TestRenewalMakesBothKeysOnce(t *testing.T) {
	a, _ := newAgent(t)
	if _, err := a.store.wireguard(wireguardFile); err != nil {
		t.Fatal(err)
	}
	r := &renewal{agent: a}
	one, err := r.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two, err := r.Keys(t.Context())
	if err != nil || !one.WireGuard.Equal(two.WireGuard) || !one.Certificate.(*ecdsa.PrivateKey).Equal(two.Certificate) {
		t.Errorf("asked again with other keys: %v", err)
	}
	for _, name := range []string{nextWireguard, nextKeyFile} {
		info, err := os.Stat(filepath.Join(a.store.dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	if tunnel.Key(one.WireGuard.PublicKey().Bytes()) == a.keys.current.Public() {
		t.Error("the next key is the present one")
	}
}

// TestUpWithoutEnrollmentLeavesNothing.
func TestUpWithoutEnrollmentLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	err := Run(context.Background(), Config{Dir: dir, Socket: filepath.Join(t.TempDir(), "socket")}, func() {})
	if err != ErrNotEnrolled {
		t.Errorf("%v, want %v", err, ErrNotEnrolled)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the state directory was made: %v", err)
	}
}
