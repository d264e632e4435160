package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/code"
	"lazaret/internal/console/api"
)

// thief stands on the way from a device to its gateway. Armed, it lets the next request
// through, keeps the answer for itself, and cuts the connection once done says that the
// gateway has acted on it.
type thief struct {
	dial func(context.Context, string, string) (net.Conn, error)

	mu     sync.Mutex
	armed  bool
	done   func(stolen int) bool // given the bytes of the answer so far
	stolen int                   // bytes of the answer
	dials  int
	cut    int // connections
}

func (f *thief) arm(done func(int) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed, f.done = true, done
}

func (f *thief) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := f.dial(ctx, network, address)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials++
	return &watched{Conn: c, thief: f}, err
}

// watched is one connection, as the client sees it. It knows TLS 1.3's records by their
// first byte: the client's first one of application data is its Finished message, and
// each further one a request.
type watched struct {
	net.Conn
	thief    *thief
	mu       sync.Mutex
	finished bool
	steal    bool
}

const applicationData = 0x17 // RFC 8446, section 5.1

func (w *watched) Write(b []byte) (int, error) {
	w.thief.mu.Lock()
	armed := w.thief.armed
	w.thief.mu.Unlock()
	w.mu.Lock()
	if len(b) > 0 && b[0] == applicationData {
		w.steal = w.finished && armed
		w.finished = true
	}
	w.mu.Unlock()
	return w.Conn.Write(b)
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	for {
		w.mu.Lock()
		steal := w.steal
		w.mu.Unlock()
		if err != nil || !steal {
			return n, err
		}
		f := w.thief
		f.mu.Lock()
		f.stolen += n
		stolen, done := f.stolen, f.done
		f.mu.Unlock()
		if done(stolen) {
			f.mu.Lock()
			f.armed = false
			f.cut++
			f.mu.Unlock()
			return 0, errors.Join(errors.New("cut"), w.Conn.Close())
		}
		n, err = w.Conn.Read(b)
	}
}

// TestLostAnswers is M6: whichever answer is lost on the way, asking again with the same
// code and keys gives the one certificate there is.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	for _, lost := range []int{2, 4, 6} {
		t.Run(fmt.Sprintf("message %d", lost), func(t *testing.T) {
			t.Parallel()
			loseAnswer(t, g, lost)
		})
	}
	t.Run("message 4, past the code's time", func(t *testing.T) {
		t.Parallel()
		loseForLong(t, g)
	})
}

// robbed is a device about to enroll over a way with a thief on it.
func robbed(t *testing.T, g *gateway, r api.OTPRequest) (*device, *thief, api.OTPCreated, code.Code) {
	t.Helper()
	d := newDevice(t, g, theLab(t).Dev1)
	o := g.otp(t, r)
	c, err := code.Parse(o.Code)
	if err != nil {
		t.Fatal(err)
	}
	return d, &thief{dial: through(t, d.host, netip.Addr{}, "")}, o, c
}

// loseAnswer enrolls a device; the answer with this number is lost once.
func loseAnswer(t *testing.T, g *gateway, lost int) {
	d, f, o, c := robbed(t, g, api.OTPRequest{User: fmt.Sprintf("lost-%d@example.com", lost)})
	agent := d.client(t, client.Config{Dial: f.Dial, Backoff: 10 * time.Millisecond})
	var before api.Device
	acted := func(want string) func(int) bool {
		return func(int) bool {
			if g.otpState(t, o.Reference) != want {
				return false
			}
			before = g.one(t, o.User)
			return true
		}
	}
	if lost == 2 {
		f.arm(func(n int) bool { return n > 1000 }) // what comes before it is smaller, and it is larger
	}
	e, err := agent.Begin(soon(t), c)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if lost == 4 {
		f.arm(acted("issued"))
	}
	result, err := e.Request(soon(t), d.keys)
	if err != nil {
		t.Fatal(err)
	}
	if lost == 6 { // the confirmation is recorded just behind its answer
		f.arm(func(int) bool { return g.awaitOTP(t, o.Reference, "confirmed") == "confirmed" && acted("confirmed")(0) })
	}
	if err := e.Confirm(soon(t)); err != nil {
		t.Fatal(err)
	}
	if f.cut != 1 || f.dials != 2 {
		t.Errorf("%d connections cut and %d made; want 1 and 2", f.cut, f.dials)
	}
	oneDevice(t, g, d, o, before, result)
}

// loseForLong asks again only when the code's time is over.
func loseForLong(t *testing.T, g *gateway) {
	d, f, o, c := robbed(t, g, api.OTPRequest{User: "late@example.com", Life: "3s"})
	e, err := d.client(t, client.Config{Dial: f.Dial, Attempts: 1}).Begin(soon(t), c)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var before api.Device
	f.arm(func(int) bool {
		before = g.one(t, o.User)
		return true
	})
	if r, err := e.Request(soon(t), d.keys); err == nil || f.cut != 1 {
		t.Fatalf("the answer was not lost: %v, %v", r, err)
	}
	until(t, "the code's time is over", func() bool { return time.Now().After(o.Expires.Add(100 * time.Millisecond)) })
	result, err := d.client(t, client.Config{Attempts: 1}).Enroll(soon(t), c, d)
	if err != nil {
		t.Fatal(err)
	}
	oneDevice(t, g, d, o, before, result)

	// The same for somebody who has the code and another key: nothing.
	other := newDevice(t, g, d.host)
	if _, err := other.client(t, client.Config{Attempts: 1}).Enroll(soon(t), c, other); err == nil {
		t.Error("another device got something for the code of the first")
	}
}

// oneDevice says that the user has one device, the one that was there when the answer was
// lost, with the certificate that the client holds in the end.
func oneDevice(t *testing.T, g *gateway, d *device, o api.OTPCreated, before api.Device, got *client.Result) {
	t.Helper()
	now := g.one(t, o.User)
	if now.Certificate != hexSerial(got.Certificate) || now.Key != d.wg.Public().String() {
		t.Fatalf("%+v; want certificate %s", now, hexSerial(got.Certificate))
	}
	if before.ID != "" && (before.ID != now.ID || before.Certificate != now.Certificate || before.Seat != now.Seat) {
		t.Errorf("asking again made another: %+v, then %+v", before, now)
	}
	if state := g.awaitOTP(t, o.Reference, "confirmed"); state != "confirmed" {
		t.Errorf("the password is %s after all, want confirmed", state)
	}
}

// awaitOTP returns the password's state once it is the wanted one, or what it is when
// patience ends.
func (g *gateway) awaitOTP(t testing.TB, reference, want string) string {
	t.Helper()
	state := g.otpState(t, reference)
	for end := time.Now().Add(patience); state != want && time.Now().Before(end); {
		state = g.otpState(t, reference)
	}
	return state
}
