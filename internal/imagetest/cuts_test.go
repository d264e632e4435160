package imagetest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/appliance/update"
	"lazaret/image/release"
	"lazaret/internal/console/api"
	"lazaret/internal/vm"
)

// TestPowerCuts takes the power from a machine while it updates itself, CUTS times (20), each
// at a moment that is drawn from SEED: as the bundle comes in, as it is flushed, read back and
// renamed, as the machine restarts, as the new version starts, and until that is kept. However
// it is cut, the machine comes up again by itself, enforces, knows its device, and takes the
// next update.
func TestPowerCuts(t *testing.T) {
	long(t)
	key, err := release.LoadKey(updateKey())
	if err != nil {
		t.Skipf("needs the key that the image takes updates from: %v", err)
	}
	seed := uint64(number(t, "SEED", int(time.Now().UnixNano()%1_000_000)))
	t.Logf("SEED=%d", seed)
	c := &cuts{
		life: newLife(t, patiently), r: rand.New(rand.NewPCG(seed, 0)), key: key, program: program(t, "./cmd/lazaretd", "-buildvcs=false", "-ldflags", "-s -w -X lazaret/internal/version.Number="+firstVersion),
		version: "0.1.0", old: map[string]int{}, new: map[string]int{},
	}
	c.turnOn()
	c.live(t, step{"Claim", c.claim}, step{"Enroll", c.enroll}, step{"Quarantine", c.quarantined}, step{"Whole", c.whole}, step{"Cuts", c.all}, step{"WholeAgain", c.whole})
}

// patiently leaves out of what alarms that the guest had no processor for a while: so it is
// where many machines are emulated at once for hours. All else that a kernel says of itself
// with BUG still does.
func patiently(c *vm.Config) {
	c.Alarm = regexp.MustCompile(`Kernel panic|Oops:|MARK FAIL|kernel BUG|BUG: [^s]|\bpanic: |\bfatal error: `)
}

// number reads one from the environment.
func number(t *testing.T, name string, or int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return or
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// firstVersion is what the program calls itself; those that follow have as many characters,
// and are the same program with that replaced.
const firstVersion = "0.1.1000"

// cuts is a life in which the power goes.
type cuts struct {
	*life
	r       *rand.Rand
	key     ed25519.PrivateKey
	program string
	version string // that runs
	count   int    // versions made
	bundle  []byte // of a version that is newer than what runs
	next    string

	// How long an update takes from the last byte to the answer, to the restart, from there to
	// enforcing and until it is kept, as measured without a cut.
	tail, restart, start, keep time.Duration
	old, new                   map[string]int // what ran after a cut, by when that was
}

// make has a bundle of a version that is newer than what runs.
func (c *cuts) make(t *testing.T) {
	t.Helper()
	if c.next != "" && update.CompareVersions(c.next, c.version) > 0 {
		return
	}
	c.count++
	c.next = fmt.Sprintf("0.1.%d", 1000+c.count)
	text, err := os.ReadFile(c.program)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(firstVersion)) {
		t.Fatal("the program does not have its version in it")
	}
	named := filepath.Join(t.TempDir(), "lazaretd")
	if err := os.WriteFile(named, bytes.ReplaceAll(text, []byte(firstVersion), []byte(c.next)), 0o700); err != nil {
		t.Fatal(err)
	}
	c.bundle = bundle(t, update.Manifest{Version: c.next, Architecture: "amd64"}, slot(t, c.next, named), c.key)
}

// slowDisk is how fast the disk is while an update is written, in bytes a second: so that
// writing takes a while in which it can be cut.
const slowDisk = 6 << 20

// watched counts the bytes that are sent, and says when they are as many as wanted.
type watched struct {
	io.Reader
	left int
	then func()
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if w.left -= n; w.left <= 0 && w.then != nil {
		w.then()
		w.then = nil
	}
	return n, err
}

// upload sends the bundle and has it started; at calls then once so many bytes of it were sent.
func (c *cuts) upload(ctx context.Context, at int, then func()) error {
	req, err := http.NewRequestWithContext(ctx, "POST", "https://127.0.0.1/api/v1/machine/update?reboot=true", &watched{bytes.NewReader(c.bundle), at, then})
	if err != nil {
		return err
	}
	req.ContentLength = int64(len(c.bundle))
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := c.admin.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return err
}

// whole updates the machine without a cut, and measures that.
func (c *cuts) whole(t *testing.T) {
	c.kept(t)
	c.make(t)
	if err := c.v.Throttle(soon(t), 0, slowDisk); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	var sent time.Time
	if err := c.upload(soon(t), len(c.bundle), func() { sent = time.Now() }); err != nil {
		t.Fatal(err)
	}
	answered := time.Now()
	if err := c.v.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	ended := time.Now()
	c.turnsOn()
	on := time.Now()
	c.comesUp(t, c.next)
	enforcing := time.Now()
	c.kept(t)
	c.tail, c.restart, c.start, c.keep = answered.Sub(sent), ended.Sub(answered), enforcing.Sub(on), time.Since(enforcing)
	t.Logf("sent in %v; then to the answer %v, to the end %v; from power-on to enforcing %v, until it is kept %v", sent.Sub(begin), c.tail, c.restart, c.start, c.keep)
}

// comesUp waits until the machine enforces, as it was: one of the versions runs.
func (c *cuts) comesUp(t *testing.T, versions ...string) {
	t.Helper()
	said, _ := awaits(t, c.v, "enforcing", ready)
	c.version = said["version"]
	if !strings.Contains(" "+strings.Join(versions, " ")+" ", " "+c.version+" ") {
		t.Fatalf("version %s runs, and neither of %v", c.version, versions)
	}
	c.enforces(t)
	var d api.Device
	c.must(t, "GET", "/api/v1/devices/"+c.device.ID, nil, &d)
	if d.Key != c.device.Key || d.Stage != "quarantined" {
		t.Errorf("the device is %+v, and was %+v", d, c.device)
	}
}

// kept waits until the version that runs is.
func (c *cuts) kept(t *testing.T) {
	t.Helper()
	awaitsBlessed(t, c.life, c.version)
}

// all cuts the power again and again.
func (c *cuts) all(t *testing.T) {
	n := number(t, "CUTS", 20)
	for i := range n {
		if !t.Run(fmt.Sprint(i+1), c.once) {
			t.Fatalf("the cuts after %d need it", i+1)
		}
	}
	old, new := 0, 0
	for _, when := range moments {
		t.Logf("cut %-20s the old version ran after it %2d times, the new one %2d times", when.name+":", c.old[when.name], c.new[when.name])
		old, new = old+c.old[when.name], new+c.new[when.name]
	}
	t.Logf("%d power cuts survived: the old version ran after %d, the new one after %d", old+new, old, new)
	if n >= 10 && (old == 0 || new == 0) {
		t.Errorf("after %d cuts there was always the same version: nothing was cut in between", n)
	}
}

// moments are when the power may go, and how often of sixteen times.
var moments = []struct {
	name   string
	weight int
	cut    func(c *cuts, t *testing.T)
}{
	{"as it comes in", 4, (*cuts).cutUpload},
	{"as it is written", 6, (*cuts).cutWriting},
	{"at the restart", 2, (*cuts).cutRestart},
	{"at the first start", 3, (*cuts).cutStart},
	{"until it is kept", 1, (*cuts).cutTrial},
}

// once is one cut, and what comes after it.
func (c *cuts) once(t *testing.T) {
	c.kept(t)
	c.make(t)
	before := c.version
	i, n := 0, c.r.IntN(16)
	for ; n >= moments[i].weight; i++ {
		n -= moments[i].weight
	}
	if err := c.v.Throttle(soon(t), 0, slowDisk); err != nil {
		t.Fatal(err)
	}
	moments[i].cut(c, t)
	c.turnsOn()
	if c.r.IntN(4) == 0 { // once more, as it starts again
		c.after(t, c.start, "the start after")
		c.turnsOn()
	}
	c.comesUp(t, before, c.next)
	if tally := c.old; c.version == before {
		tally[moments[i].name]++
	} else {
		c.new[moments[i].name]++
	}
	t.Logf("cut %s: %s ran, %s was to come, %s runs", moments[i].name, before, c.next, c.version)
	c.connect(t)
	until(t, "the management server answers again", func() error { return echoes(t, c.phone.quarantine, c.management) })
	c.forbidden(t)
}

// after cuts at a moment of the next while, or when the machine ends by itself before.
func (c *cuts) after(t *testing.T, most time.Duration, of string) {
	t.Helper()
	d := time.Duration(c.r.Int64N(int64(max(most, time.Second))))
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := c.v.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the machine ended: %v", err)
	}
	t.Logf("cut %v of %v into %s", d, most, of)
	c.v.Kill()
}

func (c *cuts) cutUpload(t *testing.T) {
	at := c.r.IntN(len(c.bundle))
	t.Logf("cut when %d of %d bytes were sent", at, len(c.bundle))
	if err := c.upload(soon(t), at, c.v.Kill); err == nil {
		t.Error("an upload was answered by a machine without power")
	}
}

func (c *cuts) cutWriting(t *testing.T) {
	sent, answer := make(chan struct{}), make(chan error, 1)
	go func() { answer <- c.upload(soon(t), len(c.bundle), func() { close(sent) }) }() // ends with the machine
	select {
	case <-sent:
		c.after(t, c.tail, "writing")
		<-answer
	case err := <-answer:
		t.Fatal(err)
	}
}

// uploads is an update that is taken.
func (c *cuts) uploads(t *testing.T) {
	t.Helper()
	if err := c.upload(soon(t), 0, nil); err != nil {
		t.Fatal(err)
	}
}

func (c *cuts) cutRestart(t *testing.T) {
	c.uploads(t)
	c.after(t, c.restart, "the end")
}

func (c *cuts) cutStart(t *testing.T) {
	c.uploads(t)
	c.startsAgain(t)
	c.after(t, c.start, "the first start")
}

func (c *cuts) cutTrial(t *testing.T) {
	c.uploads(t)
	c.startsAgain(t)
	c.comesUp(t, c.next)
	c.after(t, c.keep, "the trial")
}
