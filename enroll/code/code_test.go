package code

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"testing"
)

func draw(t testing.TB) Code {
	t.Helper()
	c, err := Draw(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDraw(t *testing.T) {
	form := regexp.MustCompile(`^([0-9A-HJKMNP-TV-Z]{5}-){4}[0-9A-HJKMNP-TV-Z]{5}$`)
	seen := map[string]bool{}
	for range 2000 {
		c := draw(t)
		if !form.MatchString(c.String()) {
			t.Fatalf("drew %s", c.String())
		}
		digits := strings.Count(strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return '#'
			}
			return r
		}, c.Secret), "#")
		if digits < 2 || digits > 14 {
			t.Errorf("secret of %d digits and %d letters", digits, 16-digits)
		}
		if seen[c.Reference] || seen[c.Secret] {
			t.Fatal("a reference or secret came twice in 2000 draws")
		}
		seen[c.Reference], seen[c.Secret] = true, true
		if back, err := Parse(c.String()); err != nil || back != c {
			t.Fatalf("code reads back as %q: %v", back.Reference, err)
		}
	}
}

// TestDrawAgain: a secret of letters alone, and one of digits alone, are thrown away.
func TestDrawAgain(t *testing.T) {
	letters, digits := bytes.Repeat([]byte{31}, 16), bytes.Repeat([]byte{3}, 16)
	good := append(bytes.Repeat([]byte{31}, 14), 3, 4)
	c, err := Draw(bytes.NewReader(slice(make([]byte, 8), letters, digits, good)))
	if err != nil || c.Reference != "00000000" || c.Secret != "ZZZZZZZZZZZZZZ34" {
		t.Fatalf("drew %s %s: %v", c.Reference, c.Secret, err)
	}
	if _, err := Draw(bytes.NewReader(slice(make([]byte, 8), letters))); !errors.Is(err, io.EOF) {
		t.Errorf("no random bytes left: %v", err)
	}
	if _, err := Draw(bytes.NewReader(make([]byte, 7))); err == nil {
		t.Error("drew a reference from 7 bytes")
	}
}

func slice(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestCheckSymbol: with a single 1 among zeros the sum is a power of alpha. The powers of x
// in GF(2)[x]/(x^5+x^2+1) are listed here as in any table of the field.
func TestCheckSymbol(t *testing.T) {
	powers := []byte{1, 2, 4, 8, 16, 5, 10, 20, 13, 26, 17, 7, 14, 28, 29, 31, 27, 19, 3, 6, 12, 24, 21, 15}
	for i, want := range powers {
		values := make([]byte, 24)
		values[i] = 1
		if got := check(values); got != want {
			t.Errorf("a 1 at place %d gives %d, want %d", i, got, want)
		}
	}
	// 7·1 + 2·alpha + 31·alpha^5, by hand: 00111 + 00100 + (11111·00101 = 01100) = 01111.
	values := make([]byte, 24)
	values[0], values[1], values[5] = 7, 2, 31
	if got := check(values); got != 15 {
		t.Errorf("sum is %05b", got)
	}
}

// TestEveryTypo: each wrong symbol at each place, and each swap of neighbours, is caught.
func TestEveryTypo(t *testing.T) {
	for range 20 {
		text := strings.ReplaceAll(draw(t).String(), "-", "")
		for i := range text {
			for _, r := range []byte(alphabet) {
				bad := []byte(text)
				if bad[i] = r; r == text[i] {
					continue
				}
				if _, err := Parse(string(bad)); !errors.Is(err, ErrCode) {
					t.Fatalf("%s passes for %s", bad, text)
				}
			}
			if i == 0 || text[i-1] == text[i] {
				continue
			}
			bad := []byte(text)
			bad[i-1], bad[i] = bad[i], bad[i-1]
			if _, err := Parse(string(bad)); !errors.Is(err, ErrCode) {
				t.Fatalf("%s passes for %s", bad, text)
			}
		}
	}
}

// sample is a code in fixed symbols; its check symbol is not Parse's to compute here.
var sample = Code{Reference: "01ABCDEF", Secret: "0123456789VWXYZ1"}

func TestParseForgives(t *testing.T) {
	full := sample.String()
	for _, typed := range []string{
		strings.ToLower(full), strings.ReplaceAll(full, "-", ""), strings.ReplaceAll(full, "-", " "),
		" " + full + "\r\n", strings.ReplaceAll(full, "0", "O"), strings.ReplaceAll(full, "0", "o"),
		strings.ReplaceAll(full, "1", "I"), strings.ReplaceAll(full, "1", "l"), strings.ReplaceAll(full, "1", "L"),
	} {
		if got, err := Parse(typed); err != nil || got != sample {
			t.Errorf("%q: %v", typed, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	full := strings.ReplaceAll(sample.String(), "-", "")
	for typed, want := range map[string]string{
		"":                                      "it has 0 symbols instead of 25",
		full[:24]:                               "it has 24 symbols instead of 25",
		full + "0":                              "it has 26 symbols instead of 25",
		full[:6] + "U" + full[7:]:               "symbol 7 is U, which no code contains (V, perhaps?)",
		full[:9] + "u" + full[10:]:              "symbol 10 is U, which no code contains (V, perhaps?)",
		full[:5] + "-" + full[5:23] + "é" + "0": "symbol 24 is not a letter or digit of the alphabet",
		full[:20] + "\xff" + full[21:]:          "symbol 21 is not a letter or digit of the alphabet",
		strings.Repeat(full, 9):                 "far more than 25 symbols",
		strings.Repeat("0", 25):                 "no code has fewer than two letters or two digits in its secret part",
	} {
		_, err := Parse(typed)
		if !errors.Is(err, ErrCode) || err.Error() != "not an enrollment code: "+want {
			t.Errorf("%q: got %q, want %q", typed, err, want)
		}
	}
}

// TestSecretStaysHidden prints a code in every way but String.
func TestSecretStaysHidden(t *testing.T) {
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", sample)
		fmt.Fprintf(&out, verb+"\n", &sample)
		fmt.Fprintf(&out, verb+"\n", struct{ Code Code }{sample})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("made", "code", sample, "pointer", &sample, "in", struct{ Code Code }{sample})
	}
	if err := json.NewEncoder(&out).Encode(sample); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{sample.Secret, sample.Secret[:5], fmt.Sprintf("%x", sample.Secret), sample.String()} {
		if strings.Contains(out.String(), part) {
			t.Errorf("secret shows in:\n%s", out.String())
		}
	}
	if n := strings.Count(out.String(), sample.Reference); n < 20 {
		t.Errorf("reference shows only %d times in:\n%s", n, out.String())
	}
}

func TestStringOfNoCode(t *testing.T) {
	for _, c := range []Code{{}, {Reference: "01ABCDEF"}, {Reference: "01ABCDEF", Secret: "U123456789VWXYZ1"}} {
		if s := c.String(); s != "" {
			t.Errorf("prints %s", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample.String())
	f.Add(strings.ToLower(sample.String()))
	f.Add("UUUUU-UUUUU")
	f.Fuzz(func(t *testing.T, typed string) {
		c, err := Parse(typed)
		if err != nil {
			if !errors.Is(err, ErrCode) || len(err.Error()) > 120 {
				t.Fatalf("error %q", err)
			}
			return
		}
		back, err := Parse(c.String())
		if err != nil || back != c {
			t.Fatalf("%q reads as %s and then otherwise: %v", typed, c.String(), err)
		}
	})
}
