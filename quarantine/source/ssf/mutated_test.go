package ssf

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lazaret/quarantine/source/set"
)

// mutant is a token that must be refused, and with what.
type mutant struct {
	text string
	code []set.Code
}

// forge makes tokens that are wrong in one way, signed by another JOSE implementation.
type forge struct {
	rand   *rand.Rand
	good   jwt.SigningMethod
	key    any // of the issuer
	kid    string
	thief  any // a key of the same kind
	public []byte
}

func (f *forge) claims() jwt.MapClaims {
	return jwt.MapClaims{"iss": issuer, "aud": audience, "jti": fmt.Sprint(f.rand.Uint64()), "iat": then.Unix() - int64(f.rand.IntN(3600)),
		"sub_id": map[string]any{"format": "complex", "device": map[string]any{"format": "opaque", "id": "d1"}},
		"events": map[string]any{set.DeviceComplianceChange: map[string]any{"current_status": []string{"compliant", "not-compliant"}[f.rand.IntN(2)]}}}
}

func (f *forge) sign(method jwt.SigningMethod, key any, header map[string]any, c jwt.MapClaims) string {
	token := jwt.NewWithClaims(method, c)
	token.Header["typ"], token.Header["kid"] = "secevent+jwt", f.kid
	for name, v := range header {
		token.Header[name] = v
	}
	text, err := token.SignedString(key)
	if err != nil {
		panic(err)
	}
	return text
}

// with signs claims that are otherwise good.
func (f *forge) with(change func(c jwt.MapClaims)) string {
	c := f.claims()
	change(c)
	return f.sign(f.good, f.key, nil, c)
}

// garble changes some bytes of a token.
func (f *forge) garble(text string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\x00{"
	b := []byte(text)
	for range 1 + f.rand.IntN(4) {
		at := f.rand.IntN(len(b))
		switch f.rand.IntN(4) {
		case 0:
			b = slices.Delete(b, at, at+1)
		case 1:
			b = slices.Insert(b, at, letters[f.rand.IntN(len(letters))])
		default:
			b[at] = letters[f.rand.IntN(len(letters))]
		}
	}
	return string(b)
}

// again changes the payload and keeps the signature.
func (f *forge) again(text string, change func(m map[string]any)) string {
	parts := strings.Split(text, ".")
	b, _ := base64.RawURLEncoding.DecodeString(parts[1])
	m := map[string]any{}
	_ = json.Unmarshal(b, &m)
	change(m)
	b, _ = json.Marshal(m)
	return parts[0] + "." + base64.RawURLEncoding.EncodeToString(b) + "." + parts[2]
}

// next is a mutant of one of many kinds.
func (f *forge) next() mutant {
	word := func() string { return fmt.Sprintf("%x", f.rand.Uint64()) }
	is := func(text string, code ...set.Code) mutant { return mutant{text, code} }
	text := func() string { return f.sign(f.good, f.key, nil, f.claims()) }
	switch f.rand.IntN(16) {
	case 0: // forged
		return is(f.sign(f.good, f.thief, nil, f.claims()), set.AuthenticationFailed)
	case 1:
		return is(f.sign(f.good, f.thief, map[string]any{"kid": word()}, f.claims()), set.InvalidKey)
	case 2:
		return is(f.sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, f.claims()), set.AuthenticationFailed)
	case 3: // the public key as an HMAC secret
		method := []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512}[f.rand.IntN(3)]
		return is(f.sign(method, f.public, nil, f.claims()), set.InvalidKey)
	case 4:
		return is(f.with(func(c jwt.MapClaims) { c["iss"] = "https://" + word() + ".example.com" }), set.InvalidIssuer)
	case 5:
		return is(f.with(func(c jwt.MapClaims) {
			c["aud"] = []any{"https://" + word(), []string{"https://" + word(), audience + "/"}, ""}[f.rand.IntN(2)]
		}), set.InvalidAudience)
	case 6: // ahead
		return is(f.with(func(c jwt.MapClaims) {
			c["iat"] = then.Add(set.MaxAhead + time.Second + time.Duration(f.rand.Int64N(int64(1000*time.Hour)))).Unix()
		}), set.InvalidRequest)
	case 7: // long ago
		return is(f.with(func(c jwt.MapClaims) {
			c["iat"] = then.Add(-DefaultMaxAge - time.Second - time.Duration(f.rand.Int64N(int64(1000*time.Hour)))).Unix()
		}), set.InvalidRequest)
	case 8:
		return is(f.with(func(c jwt.MapClaims) { c[[]string{"exp", "sub"}[f.rand.IntN(2)]] = then.Unix() }), set.InvalidRequest)
	case 9:
		name := []string{"jti", "iat", "events", "iss", "sub_id"}[f.rand.IntN(5)]
		return is(f.with(func(c jwt.MapClaims) { delete(c, name) }), set.InvalidRequest)
	case 10:
		return is(f.sign(f.good, f.key, map[string]any{"typ": []string{"JWT", "at+jwt", "logout+jwt", word()}[f.rand.IntN(4)]}, f.claims()), set.InvalidRequest)
	case 11: // a device of the forger's choice
		return is(f.again(text(), func(m map[string]any) { m["sub_id"] = map[string]any{"format": "opaque", "id": word()} }), set.AuthenticationFailed)
	case 12:
		return is(f.again(text(), func(m map[string]any) { m["jti"] = word() }), set.AuthenticationFailed)
	case 13: // an event dated ahead
		return is(f.with(func(c jwt.MapClaims) {
			c["events"] = map[string]any{set.DeviceComplianceChange: map[string]any{"current_status": "compliant",
				"event_timestamp": then.Add(set.MaxAhead + time.Second + time.Duration(f.rand.Int64N(int64(1000*time.Hour)))).Unix()}}
		}), set.InvalidRequest)
	case 14: // an event out of form
		return is(f.with(func(c jwt.MapClaims) {
			c["events"] = map[string]any{set.DeviceComplianceChange: map[string]any{"current_status": word()}}
		}), set.InvalidRequest)
	default:
		good := text()
		g := f.garble(good)
		if g == good {
			g = ""
		}
		return is(g, set.InvalidRequest, set.AuthenticationFailed, set.InvalidKey, set.InvalidIssuer, set.InvalidAudience)
	}
}

// TestMutatedTokens sends tokens that are each wrong in some way: every one gets the error
// of RFC 8935 that fits, and the gate is asked nothing. 100,000 with LONG=1.
func TestMutatedTokens(t *testing.T) {
	total := 8000
	switch {
	case os.Getenv("LONG") == "1":
		total = 100_000
	case testing.Short():
		total = 2000
	}
	l := newLab(t, nil)
	der, err := l.key.PKCS8()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := set.JWKS(l.key)
	if err != nil {
		t.Fatal(err)
	}
	thief, err := set.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	workers := runtime.GOMAXPROCS(0)
	counts := make([]map[set.Code]int, workers)
	var all sync.WaitGroup
	for n := range workers {
		counts[n] = map[set.Code]int{}
		f := &forge{rand: rand.New(rand.NewPCG(seed, uint64(n))), good: jwt.SigningMethodES256, key: private(t, der), kid: l.key.ID, thief: privateOf(t, thief), public: jwks}
		all.Go(func() {
			for range total / workers {
				m := f.next()
				err := l.take(t.Context(), l.idp(), m.text, "192.0.2.66:1")
				refusal, ok := errors.AsType[*set.Error](err)
				if !ok || !slices.Contains(m.code, refusal.Code) {
					t.Errorf("%s\n  became %v, want one of %v", m.text, err, m.code)
					return
				}
				counts[n][refusal.Code]++
			}
		})
	}
	all.Wait()
	sum := map[set.Code]int{}
	for _, c := range counts {
		for code, n := range c {
			sum[code] += n
		}
	}
	t.Logf("refused: %v", sum)
	if got := l.gate.told(); got != "" {
		t.Errorf("the gate was asked %q", got)
	}
	if st, err := l.Status(t.Context(), "idp"); err != nil || st.Remembered != 0 || st.Accepted != 0 {
		t.Errorf("status is %+v, %v", st, err)
	}
	if n := l.audit.count(); n == 0 || n > 2*paceBurst { // of strangers, and of tokens that are signed
		t.Errorf("%d entries in the audit log", n)
	}
	// The same receiver still takes what is right.
	f := &forge{rand: rand.New(rand.NewPCG(seed, 99)), good: jwt.SigningMethodES256, key: private(t, der), kid: l.key.ID}
	if err := l.take(t.Context(), l.idp(), f.sign(f.good, f.key, nil, f.claims()), ""); err != nil || l.gate.told() == "" {
		t.Errorf("what the mutants are made of is refused: %v", err)
	}
}

// TestAuditIsPaced: a stranger cannot fill the log, and what is left out is counted.
func TestAuditIsPaced(t *testing.T) {
	l := newLab(t, nil)
	for range 1000 {
		_ = l.take(t.Context(), l.idp(), "x", "192.0.2.66:1")
	}
	if n := l.audit.count(); n != paceBurst {
		t.Errorf("%d entries", n)
	}
	l.pass(paceEvery)
	_ = l.take(t.Context(), l.idp(), "x", "192.0.2.66:1")
	if n := l.audit.count(); n != paceBurst+1 || !strings.Contains(l.audit.why[n-1], "990 refusals before it") {
		t.Errorf("afterwards %d entries, the last %q", n, l.audit.why[n-1])
	}
	if h := l.ledger.List(); len(h) != 0 {
		t.Errorf("strangers spoilt the health of the source: %+v", h)
	}
}
