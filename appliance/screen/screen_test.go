package screen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
)

// everything offers all there is; what is done is told.
func everything(told chan string) Actions {
	tell := func(what string) func(context.Context) error {
		return func(context.Context) error { told <- what; return nil }
	}
	return Actions{
		SetAddress: func(_ context.Context, card string, l appliance.Link) error {
			told <- fmt.Sprintf("%s %+v", card, l)
			return nil
		},
		ResetAdministrator: tell("new administrator"), RollBack: tell("roll back"), FactoryReset: tell("factory reset"),
		Reboot: tell("reboot"), PowerOff: func(context.Context) error { told <- "power off"; return errors.New("no\x1b[2J way") },
		Log: func(n int) []string { return []string{"one", "two \x1b]0;x\a"} },
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatal("waited a minute for what was to be done")
		panic("not reached")
	}
}

// TestVideo: the screen is drawn as it should be, drawn over when there is news, and the
// console given back as it was.
func TestVideo(t *testing.T) {
	p := sit(t)
	before := p.settings()
	s, stop := with(t, Config{Actions: everything(nil)}, map[Console]*person{screenConsole: p})
	p.see(eraseBelow)
	s.Show(whole())
	p.see("gateway-1")
	p.see(eraseBelow)
	if now := p.settings(); now == before {
		t.Error("the terminal is as it was before the screen began")
	}
	m := &monitor{t: t}
	m.write(p.all())
	if got := m.String(); !strings.Contains(got, "\nAddresses    eth0 192.0.2.7/24 2001:db8::7/64 via 192.0.2.1\n             eth1: no cable\n") || strings.Contains(got, "starting") {
		t.Errorf("on the screen stands\n%s", got)
	}
	stop()
	p.see(home + eraseBelow + showCursor)
	if after := p.settings(); after != before {
		t.Errorf("the terminal had %+v and has %+v", before, after)
	}
	m = &monitor{t: t}
	m.write(p.all())
	if left := strings.TrimSpace(m.String()); left != "" {
		t.Errorf("left on the screen is %q", left)
	}
}

// TestSerial: a block and a line for each news, none for what is none, and no control code.
func TestSerial(t *testing.T) {
	p := sit(t)
	s, _ := with(t, Config{}, map[Console]*person{serialConsole: p})
	p.see("lazaret: stage=starting")
	st := statuses()["unclaimed"]
	s.Show(st)
	p.see("Claim code   ABCD-EFGH-JKLM-NPQR\r\n")
	p.see("lazaret: stage=unclaimed ")
	p.see(" code=ABCD-EFGH-JKLM-NPQR ")
	st.Memory.Available--
	s.Show(st)
	st.Problems = []string{"Something is wrong."}
	s.Show(st)
	p.see("! Something is wrong.\r\n")
	p.see("lazaret: stage=unclaimed ")
	p.press("\r") // any key has the block printed for whoever has just connected
	p.see("! Something is wrong.\r\n")
	text := p.all()
	if n := strings.Count(text, "Claim code"); n != 3 { // with the code, with the problem, for the key
		t.Errorf("the block was printed %d times:\n%s", n, text)
	}
	if strings.ContainsAny(text, "\x1b\b\a") {
		t.Errorf("control codes went to the serial line: %q", text)
	}
}

// TestAskAll: a question stands on all consoles, the first answer wins, a secret is shown
// nowhere, and the menu can be reached meanwhile.
func TestAskAll(t *testing.T) {
	p, q := sit(t), sit(t)
	told := make(chan string, 1)
	s, _ := with(t, Config{Actions: everything(told)}, map[Console]*person{screenConsole: p, serialConsole: q})
	s.Show(appliance.Status{Stage: appliance.Locked})
	answers := make(chan string, 1)
	ask := func(prompt string, secret bool) {
		go func() {
			a, err := s.Ask(t.Context(), prompt, secret)
			answers <- fmt.Sprint(a, err)
		}()
	}
	ask("Passphrase:", true)
	q.see("lazaret: stage=locked")
	p.see("Passphrase: ")
	q.see("Passphrase: ")
	p.press("wro\x15hors\x7fse \xc3\xa9") // half an answer here
	q.press("correct horse\r")            // and a whole one there
	if got := receive(t, answers); got != "correct horse<nil>" {
		t.Errorf("the answer is %q", got)
	}
	p.see(eraseBelow) // the screen is back
	ask("One row,\nand \x1banother.\nName:", false)
	p.see("One row,\r\nand ?another.\r\nName: ")
	q.see("Name: ")
	p.press("\x1b") // to the menu, which has the way back
	p.see("e answer")
	p.press("r")
	p.see("Type yes")
	p.press("yes\r")
	if got := receive(t, told); got != "reboot" {
		t.Errorf("done was %q", got)
	}
	p.see("Done.")
	p.press(" ")
	p.see("e answer")
	p.press("e")
	p.see("Name: ")
	p.press("xyz\r")
	if got := receive(t, answers); got != "xyz<nil>" {
		t.Errorf("the answer is %q", got)
	}
	for _, c := range []*person{p, q} {
		if strings.Contains(c.all(), "hors") || strings.Contains(c.all(), "corr") {
			t.Error("the passphrase was shown")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Ask(ctx, "Never:", false); !errors.Is(err, context.Canceled) {
		t.Errorf("a question nobody waits for: %v", err)
	}
}

// TestMenu does everything in it, and shows that less than the whole word does nothing.
func TestMenu(t *testing.T) {
	for _, c := range []struct {
		name, keys string
		stage      appliance.Stage
		want       string // "" for nothing
		see        string
	}{
		{"reboot", "ryes\r", appliance.Running, "reboot", "Done."},
		{"reboot, not sure", "ry\r", appliance.Running, "", ""},
		{"reboot, left", "ryes\x1b", appliance.Running, "", ""},
		{"an arrow is no key", "\x1b[r\x1bOryes\r", appliance.Running, "", ""},
		{"power off, which fails", "pyes\r", appliance.Running, "power off", "That failed: no?[2J way"},
		{"roll back", "byes\r", appliance.Running, "roll back", "Done."},
		{"new administrator", "nyes\r", appliance.Running, "new administrator", "Done."},
		{"factory reset", "fgateway-1\r", appliance.Running, "factory reset", "Done."},
		{"factory reset without the name", "fRESET\r", appliance.Running, "", ""},
		{"factory reset of an unclaimed one", "fRESET\r", appliance.Unclaimed, "factory reset", "Done."},
		{"log", "l", appliance.Running, "", "two ?]0;x?\r\n"},
		{"address by DHCP", "a1\rd\ryes\r", appliance.Running, "eth0 " + fmt.Sprintf("%+v", appliance.Link{DHCP4: true, DHCP6: true, AcceptRA: true}), "Done."},
		{"address, typed wrong first", "a9\r1\rs\r192.0.2.0/24\r192.0.2.9/24,2001:db8::9/64\r198.51.100.1\r192.0.2.1 fe80::1\r192.0.2.53\ryes\r", appliance.Running,
			"eth0 " + fmt.Sprintf("%+v", appliance.Link{
				Addresses:   []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("2001:db8::9/64")},
				Routes:      []appliance.Route{{To: "default", Via: netip.MustParseAddr("192.0.2.1")}, {To: "default", Via: netip.MustParseAddr("fe80::1")}},
				Nameservers: appliance.Nameservers{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53")}},
			}), "Done."},
		{"address, left at the end", "a1\rd\rno\r", appliance.Running, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := sit(t)
			told := make(chan string, 1)
			s, stop := with(t, Config{Actions: everything(told)}, map[Console]*person{serialConsole: p})
			st := whole()
			st.Stage = c.stage
			s.Show(st)
			p.see("lazaret: stage=" + string(c.stage))
			for _, k := range []byte(c.keys) {
				p.press(string(k))
			}
			if c.want != "" {
				if got := receive(t, told); got != c.want {
					t.Errorf("done was %q, want %q", got, c.want)
				}
			}
			if c.see != "" {
				p.see(c.see)
			}
			p.press("\x1b\r") // back on the screen, whatever was open
			p.see("power off\r\n---")
			stop()
			select {
			case what := <-told:
				t.Errorf("done was %q too", what)
			default:
			}
			if strings.Contains(p.all(), "\x1b") {
				t.Error("an escape went to the serial line")
			}
		})
	}
}

// TestLogIsWrapped: of a line that is longer than a row nothing is lost, on either console.
func TestLogIsWrapped(t *testing.T) {
	reason := "serve: lazaretd: making listener certificate: issuing \"server\" certificate: the clock is too far ahead of what is known: " + strings.Repeat("x", 100) + " and this is the END"
	a := Actions{Log: func(int) []string { return []string{"first", reason, "last"} }}
	for _, console := range []Console{screenConsole, serialConsole} {
		p := sit(t)
		_, stop := with(t, Config{Actions: a}, map[Console]*person{console: p})
		p.see("l log")
		p.press("l")
		p.see("first\r\n")
		between := p.see("\r\nlast\r\n")
		if got := strings.ReplaceAll(strings.ReplaceAll(between, "\r\n  ", " "), " ", ""); got != strings.ReplaceAll(reason, " ", "") {
			t.Errorf("%s: the log shows %q", console.Name, between)
		}
		for _, row := range strings.Split(between, "\r\n") {
			if len(row) >= columns {
				t.Errorf("%s: a row of %d columns", console.Name, len(row))
			}
		}
		stop()
	}
}

// TestNothingOffered: no key does anything where nothing can be done.
func TestNothingOffered(t *testing.T) {
	p := sit(t)
	s, _ := with(t, Config{}, map[Console]*person{serialConsole: p})
	s.Show(whole())
	p.see("lazaret: stage=running")
	for k := byte(' '); k < 0x7f; k++ {
		p.press(string(k))
	}
	s.Show(statuses()["locked"])
	if between := p.see("lazaret: stage=locked"); strings.Contains(between, "Type") || strings.Contains(between, "restart ") {
		t.Errorf("keys did %q", between)
	}
}

// TestDialogIsGivenUp: one that nobody types in gives the screen back.
func TestDialogIsGivenUp(t *testing.T) {
	p := sit(t)
	told := make(chan string, 1)
	s, err := New(Config{Log: slog.New(slog.DiscardHandler), Consoles: []Console{screenConsole}, Open: p.open, Actions: everything(told)})
	if err != nil {
		t.Fatal(err)
	}
	s.idle = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	p.see("starting")
	p.press("fRES")
	p.see("Type RESET")
	p.see("starting")
	cancel()
	if err := <-done; err != nil || len(told) > 0 {
		t.Errorf("ended with %v, done %d things", err, len(told))
	}
	if _, err := s.Ask(t.Context(), "Anyone?", false); !errors.Is(err, ErrClosed) {
		t.Errorf("asking on a closed screen: %v", err)
	}
}

// TestConsoleMissing: the consoles there are work where others are missing or no terminals.
func TestConsoleMissing(t *testing.T) {
	p := sit(t)
	file := t.TempDir() + "/no-terminal"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	plain := Console{Name: "plain"}
	s, _ := with(t, Config{Open: func(name string) (*os.File, error) {
		switch name {
		case serialConsole.Name:
			return p.open(name)
		case plain.Name:
			return os.OpenFile(file, os.O_RDWR, 0)
		}
		return nil, os.ErrNotExist
	}}, map[Console]*person{serialConsole: p, plain: nil, {Name: "absent"}: nil})
	s.Show(whole())
	p.see("lazaret: stage=running")
}

func TestNewWantsALog(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("made without a log")
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct{ words, want string }{
		{"192.0.2.7/24", "[192.0.2.7/24]"}, {"192.0.2.7/31 2001:db8::1/127", "[192.0.2.7/31 2001:db8::1/127]"},
		{"", "an address is needed"}, {"192.0.2.7", `"192.0.2.7" is no address with a prefix length`},
		{"192.0.2.255/24", "192.0.2.255/24 is the network's own, or its broadcast address"}, {"127.0.0.1/8", "127.0.0.1/8 is no address of a host"},
		{"0.0.0.0/0", "0.0.0.0/0 is no address of a host"}, {"ff02::1/64", "ff02::1/64 is no address of a host"},
		{"::ffff:192.0.2.7/120", "::ffff:192.0.2.7/120 is no address of a host"}, {"fe80::1%eth0/64", `"fe80::1%eth0/64" is no address with a prefix length`},
		{"192.0.2.7/24 192.0.2.8/24", "more than one address of a family"},
	} {
		list, err := hostPrefixes(strings.Fields(c.words))
		got := fmt.Sprint(list)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.words, got, c.want)
		}
	}
	on := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}
	for words, want := range map[string]int{"": 0, "192.0.2.1": 1, "fe80::1": 1, "192.0.2.1 fe80::1": 2, "192.0.2.7": -1, "192.0.3.1": -1, "192.0.2.1 192.0.2.2": -1, "x": -1, "2001:db8::1": -1} {
		routes, err := gateways(strings.Fields(words), on)
		if got := len(routes); err != nil != (want < 0) || err == nil && got != want {
			t.Errorf("gateways %q: %v, %v", words, routes, err)
		}
	}
	if many, err := hosts(strings.Fields("192.0.2.1 192.0.2.2 192.0.2.3"), 2); err == nil {
		t.Errorf("took %v", many)
	}
	if !reflect.DeepEqual(broadcast(netip.MustParsePrefix("192.0.2.7/27")), netip.MustParseAddr("192.0.2.31")) {
		t.Error("wrong broadcast address")
	}
}
