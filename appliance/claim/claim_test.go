package claim

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestClaim: from the code to an answer that is kept, with progress, and then it is over.
func TestClaim(t *testing.T) {
	m := newMachine(t, nil)
	var seen string
	typed := strings.ToLower(strings.ReplaceAll(m.code.String(), "-", " "))
	c, err := ParseCode(typed)
	if err != nil || c != m.code {
		t.Fatalf("%q: %v", typed, err)
	}
	k, err := Dial(t.Context(), m.address, c, request(t), func(p string) { seen = p })
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if seen != m.print || k.Fingerprint() != m.print || len(m.print) != 64+15 {
		t.Errorf("fingerprint %q, on the screen %q", seen, m.print)
	}
	var steps []string
	a, err := k.Claim(t.Context(), func(s string) { steps = append(steps, s) })
	if err != nil {
		t.Fatal(err)
	}
	if a.Token != "lzt_secret" || len(a.Administrator) != 2 || !slices.Equal(steps, []string{"Making it."}) {
		t.Errorf("answer for %s after %v", a.API, steps)
	}
	if made, kept := m.count(); made != 1 || kept != 0 {
		t.Errorf("made %d, kept %d before the claimant said so", made, kept)
	}
	if err := k.Kept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keeper, door := m.end(); keeper != nil || door != nil {
		t.Errorf("keeper ended with %v, door with %v", keeper, door)
	}
	if made, kept := m.count(); made != 1 || kept != 1 {
		t.Errorf("made %d, kept %d", made, kept)
	}
	if _, err := Dial(t.Context(), m.address, c, request(t), nil); err == nil {
		t.Error("a claimed machine still answers")
	}
}

// TestWrongCode: the machine's proof is wrong for it, so the claimant sends nothing more; and a
// claimant that goes on all the same is refused.
func TestWrongCode(t *testing.T) {
	m := newMachine(t, nil)
	text := request(t)
	if _, err := Dial(t.Context(), m.address, DrawCode(), text, nil); !errors.Is(err, ErrProof) {
		t.Errorf("wrong code: %v", err)
	}
	k := dial(t, m, text)
	k.code = DrawCode()
	if _, err := k.Claim(t.Context(), nil); refused(err) != Wrong {
		t.Errorf("wrong proof: %v", err)
	}
	k = dial(t, m, text)
	k.code = DrawCode()
	if err := k.Kept(t.Context()); refused(err) != Wrong {
		t.Errorf("wrong proof of keeping: %v", err)
	}
	if made, kept := m.count(); made != 0 || kept != 0 {
		t.Errorf("made %d, kept %d", made, kept)
	}
	k = dial(t, m, text) // nobody is shut out by that
	if _, err := k.Claim(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestAnotherRequest: the proof holds for the announced request, connection and kind alone.
func TestAnotherRequest(t *testing.T) {
	m := newMachine(t, nil)
	k := dial(t, m, request(t))
	k.request = request(t) // its hash was another's
	if _, err := k.Claim(t.Context(), nil); refused(err) != Wrong {
		t.Errorf("another request than announced: %v", err)
	}
	a, b := dial(t, m, request(t)), dial(t, m, request(t))
	if string(a.x.Exporter) == string(b.x.Exporter) {
		t.Fatal("two connections have one name")
	}
	b.x = a.x
	if _, err := b.Claim(t.Context(), nil); refused(err) != Wrong {
		t.Errorf("proof for another connection: %v", err)
	}
	fresh := dial(t, m, request(t))
	fresh.x.Machine = a.x.Machine
	if _, err := fresh.Claim(t.Context(), nil); refused(err) != Wrong {
		t.Errorf("proof with another nonce: %v", err)
	}
	if made, _ := m.count(); made != 0 {
		t.Errorf("made %d", made)
	}
}

// TestLostAnswer: the same request gets the same answer until it is kept; another does not.
func TestLostAnswer(t *testing.T) {
	m := newMachine(t, nil)
	m.block = make(chan struct{})
	text := request(t)
	first := dial(t, m, text)
	ctx, hangUp := context.WithCancel(t.Context())
	step := make(chan struct{})
	lost := make(chan error, 1)
	go func() {
		_, err := first.Claim(ctx, func(string) { close(step) })
		lost <- err
	}()
	<-step
	hangUp()
	first.Close()
	if err := <-lost; !errors.Is(err, ErrLost) {
		t.Errorf("hanging up: %v", err)
	}
	// Another claimant, who knows the code too, while it is being made, and after.
	if _, err := dial(t, m, request(t)).Claim(t.Context(), nil); refused(err) != Claimed {
		t.Errorf("a second claimant while it is made: %v", err)
	}
	close(m.block)
	a, err := dial(t, m, text).Claim(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, m, request(t)).Claim(t.Context(), nil); refused(err) != Claimed {
		t.Errorf("a second claimant after it was made: %v", err)
	}
	k := dial(t, m, text)
	b, err := k.Claim(t.Context(), nil)
	if err != nil || b.Token != a.Token {
		t.Errorf("asking again: %v", err)
	}
	if err := k.Kept(t.Context()); err != nil {
		t.Error(err)
	}
	if made, kept := m.count(); made != 1 || kept != 1 {
		t.Errorf("made %d, kept %d", made, kept)
	}
}

// TestTwoClaimants: of many at once, all with the code, one gets the machine.
func TestTwoClaimants(t *testing.T) {
	m := newMachine(t, nil)
	var conns []*Conn
	for range 8 {
		conns = append(conns, dial(t, m, request(t)))
	}
	kinds := make(chan string, len(conns))
	for _, k := range conns {
		go func() {
			if _, err := k.Claim(t.Context(), nil); err == nil {
				kinds <- "won"
			} else {
				kinds <- refused(err)
			}
		}()
	}
	count := map[string]int{}
	for range conns {
		count[<-kinds]++
	}
	if count["won"] != 1 || count[Claimed] != len(conns)-1 {
		t.Errorf("%v", count)
	}
	if made, _ := m.count(); made != 1 {
		t.Errorf("made %d", made)
	}
}

// TestFailedMake: the machine stays unclaimed, and another try may do better.
func TestFailedMake(t *testing.T) {
	m := newMachine(t, nil)
	m.fail = errors.New("the disk's secret name is /dev/x")
	text := request(t)
	_, err := dial(t, m, text).Claim(t.Context(), nil)
	if refused(err) != Broken || strings.Contains(err.Error(), "/dev/x") {
		t.Errorf("failing: %v", err)
	}
	m.mu.Lock()
	m.fail = &Refusal{Kind: Invalid, What: "no", Faults: []Fault{{Field: "name", What: "taken"}}}
	m.mu.Unlock()
	if _, err := dial(t, m, text).Claim(t.Context(), nil); refused(err) != Invalid || !strings.Contains(err.Error(), "name: taken") {
		t.Errorf("refusing: %v", err)
	}
	m.mu.Lock()
	m.fail = nil
	m.mu.Unlock()
	if _, err := dial(t, m, request(t)).Claim(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestLapse: an answer that nobody keeps is void, the keeper says so, and keeping it is late.
func TestLapse(t *testing.T) {
	m := newMachine(t, func(c *KeeperConfig) { c.Wait = time.Nanosecond })
	text := request(t)
	if _, err := dial(t, m, text).Claim(t.Context(), nil); err != nil && !errors.Is(err, ErrLost) && refused(err) != Claimed && refused(err) != Broken {
		t.Error(err)
	}
	keeper, door := m.end()
	if !errors.Is(keeper, ErrLapsed) || door == nil {
		t.Errorf("keeper ended with %v, door with %v", keeper, door)
	}
	if _, kept := m.count(); kept != 0 {
		t.Error("it was kept")
	}
	x := Exchange{Exporter: make(Sum, 32), Claimant: make(Sum, 32), Machine: make(Sum, 32), Request: sum(text)}
	for kind, label := range map[string]string{callKept: labelKept, callClaim: labelClaimant} {
		proof, err := prove(m.code, label, x, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := m.keeper.reply(t.Context(), call{Kind: kind, Exchange: &x, Request: text, Proof: proof}, func(string) {})
		if r.Refusal == nil || r.Refusal.Kind != Claimed {
			t.Errorf("%s after the end: %+v", kind, r.Refusal)
		}
	}
}

// TestDoorReplaced: an answer outlives the process that speaks with strangers.
func TestDoorReplaced(t *testing.T) {
	m := newMachine(t, nil)
	text := request(t)
	a, err := dial(t, m, text).Claim(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	x := Exchange{Exporter: make(Sum, 32), Claimant: make(Sum, 32), Machine: make(Sum, 32), Request: sum(text)}
	proof, err := prove(m.code, labelClaimant, x, nil)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	p := newPipe(theirs)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- m.keeper.Run(ctx, ours) }()
	go func() { ended <- p.run(ctx) }()
	r, err := p.ask(t.Context(), call{Kind: callClaim, Exchange: &x, Request: text, Proof: proof}, nil)
	if err != nil || !strings.Contains(string(r.Answer), a.Token) {
		t.Errorf("another door: %v", err)
	}
	cancel()
	<-ended
	<-ended
}
