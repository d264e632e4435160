package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"lazaret/internal/testneed"
)

// chip is a software TPM, and all that went over its bus.
type chip struct {
	*TPM
	bus *bytes.Buffer
}

type closer struct {
	transport.TPM
	io.Closer
}

func start(t *testing.T, dir string) (chip, func()) {
	t.Helper()
	conn, end := testneed.TPM(t, dir)
	c := chip{bus: &bytes.Buffer{}}
	c.TPM = &TPM{closer{transport.FromReadWriter(tap{conn, c.bus}), conn}}
	return c, end
}

// tap writes down what passes.
type tap struct {
	net.Conn
	bus *bytes.Buffer
}

func (p tap) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.bus.Write(b[:n])
	return n, err
}

func (p tap) Write(b []byte) (int, error) {
	p.bus.Write(b)
	return p.Conn.Write(b)
}

func (c chip) extend(t *testing.T, pcr tpm2.TPMHandle) {
	t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: pcr, Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}.Execute(c.t)
	if err != nil {
		t.Fatal(err)
	}
}

// again is a blob as it comes back from a header.
func again(t *testing.T, b Blob) Blob {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var back Blob
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	return back
}

var secret = []byte("thirty-two bytes that are secret")

// TestSeal: the same TPM opens what it sealed after a restart, and neither another one nor
// the same one after other measurements does; a bus sniffer reads nothing of it.
func TestSeal(t *testing.T) {
	dir := t.TempDir()
	c, end := start(t, dir)
	if measured, err := c.Measured([]uint{7}); err != nil || measured {
		t.Error("measured:", measured, err)
	}
	c.extend(t, 7)
	if measured, err := c.Measured([]uint{7}); err != nil || !measured {
		t.Error("measured:", measured, err)
	}
	b, err := c.Seal(secret, []uint{7}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b = again(t, b)
	for range 3 { // handles and sessions must not run out
		if got, err := c.Unseal(b, nil); err != nil || !bytes.Equal(got, secret) {
			t.Fatal(got, err)
		}
	}
	if c.bus.Len() < 1000 || bytes.Contains(c.bus.Bytes(), secret[:8]) {
		t.Error("the secret is on the bus in the clear")
	}
	c.extend(t, 11) // an update
	if got, err := c.Unseal(b, nil); err != nil || !bytes.Equal(got, secret) {
		t.Fatal(got, err)
	}
	c.extend(t, 7)
	if _, err := c.Unseal(b, nil); !errors.Is(err, ErrChanged) {
		t.Error("after other measurements:", err)
	}
	end()
	c, _ = start(t, dir)
	c.extend(t, 7)
	if got, err := c.Unseal(b, nil); err != nil || !bytes.Equal(got, secret) {
		t.Fatal("after a restart:", got, err)
	}
	other, _ := start(t, t.TempDir())
	other.extend(t, 7)
	if _, err := other.Unseal(b, nil); !errors.Is(err, ErrOther) {
		t.Error("another TPM:", err)
	}
	for range 5 {
		if mine, theirs := c.Sealed(b), other.Sealed(b); mine != nil || !errors.Is(theirs, ErrOther) {
			t.Error("who sealed it:", mine, theirs)
		}
	}
	b.Private[len(b.Private)-1] ^= 1
	if _, err := c.Unseal(b, nil); !errors.Is(err, ErrOther) {
		t.Error("an altered blob:", err)
	}
}

// TestEveryPIN: each PIN that is sealed with is good for what it sealed, whatever bytes come of
// it. Of these, some hash to a zero at the beginning, within, or at the end.
func TestEveryPIN(t *testing.T) {
	c, _ := start(t, t.TempDir())
	zeros := map[string]int{}
	for i := range 1200 {
		pin := strconv.Itoa(482000 + i)
		sum := sha256.Sum256([]byte(pin))
		at := bytes.IndexByte(sum[:], 0)
		where := "within"
		switch at {
		case -1:
			where = "none"
		case 0, 31:
			where = strconv.Itoa(at)
		}
		if zeros[where]++; zeros[where] > 3 {
			continue
		}
		b, err := c.Seal(secret, []uint{7}, []byte(pin))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Unseal(b, []byte(pin)); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("PIN %s, zero %s: %v", pin, where, err)
		}
	}
	if len(zeros) != 4 {
		t.Errorf("tried %v", zeros)
	}
}

// TestPIN: without the right PIN the TPM gives nothing, and locks itself in the end.
func TestPIN(t *testing.T) {
	c, _ := start(t, t.TempDir())
	b, err := c.Seal(secret, []uint{7}, []byte("4711"))
	if err != nil {
		t.Fatal(err)
	}
	b = again(t, b)
	if got, err := c.Unseal(b, []byte("4711")); err != nil || !bytes.Equal(got, secret) {
		t.Fatal(got, err)
	}
	b.PIN = false
	if _, err := c.Unseal(b, nil); !errors.Is(err, ErrChanged) {
		t.Error("without the PIN's policy:", err)
	}
	b.PIN = true
	for range 40 {
		_, err = c.Unseal(b, []byte("4712"))
		if errors.Is(err, ErrLockout) {
			return
		}
		if !errors.Is(err, ErrPIN) {
			t.Fatal(err)
		}
	}
	t.Error("40 wrong PINs, and no lockout")
}
