package leak

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Verdict is what became of one case.
type Verdict string

// Held is the only one that passes.
const (
	Held      Verdict = "held"
	Leaked    Verdict = "leaked"
	NeverSent Verdict = "never sent"           // not seen to leave, or an own address that did not reach the gateway
	Unproven  Verdict = "control did not leak" // so that a silence proves nothing
)

// Case is one probe, or one flow, in one stage.
type Case struct {
	Group   string   `json:"group"`
	Name    string   `json:"name"`
	Family  int      `json:"family,omitempty"`
	Stage   Stage    `json:"stage"`
	Sent    int      `json:"sent"`    // packets, seen to leave
	Reached bool     `json:"reached"` // came out of the tunnel at the gateway; else WireGuard stopped it
	Leaks   []string `json:"leaks,omitempty"`
	Control []string `json:"control,omitempty"` // where the same was seen through the control
	Note    string   `json:"note,omitempty"`
	Verdict Verdict  `json:"verdict"`
}

// Report is what a run found.
type Report struct {
	Cases    []Case        `json:"cases"`
	Tried    int           `json:"tried"`
	Controls int           `json:"controls"` // that leaked, as they must
	Packets  int           `json:"packets"`  // sent at what is forbidden, in the stages
	Before   int           `json:"before"`   // packets seen to pass while the devices were routed, which then had to stop
	Leaked   int           `json:"leaked"`   // cases that leaked
	Took     time.Duration `json:"took"`
}

// OK reports whether every case held, and there were any.
func (r *Report) OK() bool {
	return r.Tried > 0 && !slices.ContainsFunc(r.Cases, func(c Case) bool { return c.Verdict != Held })
}

// caseKey joins the rounds of one case.
type caseKey struct {
	probe  *Probe
	family int
	stage  Stage
}

// report sums up all shots and flows.
func (r *run) report() *Report {
	out := &Report{}
	found := make(map[caseKey]*Case)
	never := make(map[caseKey]bool)
	for _, x := range r.shots {
		k := caseKey{x.probe, x.family, x.device.stage}
		c := found[k]
		if c == nil {
			c = &Case{Group: x.probe.Group, Name: x.probe.Name, Family: x.family, Stage: k.stage, Note: x.probe.Note}
			found[k] = c
		}
		switch x.side {
		case real:
			c.Sent += x.left
			c.Reached = c.Reached || x.reached
			c.Leaks = union(c.Leaks, x.leaks)
			lost := x.own && k.stage.peer() && x.probe.way() == Tunnel && !x.reached
			never[k] = never[k] || x.left < x.packets || lost
		case control:
			c.Control = union(c.Control, x.leaks)
		case before:
			if len(x.leaks) > 0 {
				out.Before++
			}
		}
	}
	for k, c := range found {
		switch {
		case len(c.Leaks) > 0:
			c.Verdict = Leaked
		case never[k]:
			c.Verdict = NeverSent
		case len(c.Control) == 0:
			c.Verdict = Unproven
		default:
			c.Verdict = Held
		}
		out.Cases = append(out.Cases, *c)
	}
	out.Cases = append(out.Cases, r.site.flowCases(out)...)
	slices.SortFunc(out.Cases, func(a, b Case) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Family, b.Family), cmp.Compare(a.Stage, b.Stage))
	})
	for _, c := range out.Cases {
		out.Tried++
		out.Packets += c.Sent
		if c.Verdict == Leaked {
			out.Leaked++
		}
		if len(c.Control) > 0 {
			out.Controls++
		}
	}
	return out
}

func union(a, b []string) []string {
	for _, x := range b {
		if !slices.Contains(a, x) {
			a = append(a, x)
		}
	}
	return a
}

// flowCases are the flows that were open before, as cases.
func (s *site) flowCases(out *Report) []Case {
	controls := make(map[string]*flow)
	for _, f := range s.flows {
		if f.device == nil {
			controls[f.name] = f
		}
	}
	var list []Case
	for _, f := range s.flows {
		if f.device == nil {
			continue
		}
		c := Case{Group: "open flow", Name: f.name, Stage: f.device.stage, Sent: f.sent, Verdict: Held}
		out.Before += f.before
		if k := controls[f.name]; k.arrived > 0 {
			c.Control = []string{fmt.Sprintf("%d of %d packets went on", k.arrived, k.sent)}
		}
		switch {
		case f.arrived > 0:
			c.Verdict, c.Leaks = Leaked, []string{fmt.Sprintf("%d of %d packets went on", f.arrived, f.sent)}
		case f.before == 0 || f.sent == 0:
			c.Verdict = NeverSent
		case len(c.Control) == 0:
			c.Verdict = Unproven
		}
		list = append(list, c)
	}
	return list
}

// row is the verdicts of one group in one stage.
type row struct {
	group string
	stage map[Stage][2]int // held, all
}

// Print writes a table of groups and stages, what did not hold, and the sums.
func (r *Report) Print(w io.Writer) {
	var rows []row
	for _, c := range r.Cases {
		if len(rows) == 0 || rows[len(rows)-1].group != c.Group {
			rows = append(rows, row{c.Group, make(map[Stage][2]int)})
		}
		n := rows[len(rows)-1].stage[c.Stage]
		if n[1]++; c.Verdict == Held {
			n[0]++
		}
		rows[len(rows)-1].stage[c.Stage] = n
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, stage := range Stages() {
		fmt.Fprintf(w, "  %c  %s\n", 'a'+i, stage)
	}
	fmt.Fprint(t, "\nheld of tried")
	for i := range Stages() {
		fmt.Fprintf(t, "\t%c", 'a'+i)
	}
	fmt.Fprintln(t)
	for _, x := range rows {
		fmt.Fprint(t, x.group)
		for _, stage := range Stages() {
			if n := x.stage[stage]; n[1] == 0 {
				fmt.Fprint(t, "\t-")
			} else {
				fmt.Fprintf(t, "\t%d/%d", n[0], n[1])
			}
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // as the lines around it
	for _, c := range r.Cases {
		if c.Verdict != Held {
			fmt.Fprintf(w, "NOT HELD: %s\n", c)
		}
	}
	fmt.Fprintf(w, "\ncases tried                      %d\ncontrols that leaked, as they must %d\npackets sent                     %d\npackets that passed before       %d\ncases that leaked                %d\ntook                             %s\n",
		r.Tried, r.Controls, r.Packets, r.Before, r.Leaked, r.Took.Round(100*time.Millisecond))
}

func (c Case) String() string {
	family := ""
	if c.Family != 0 {
		family = fmt.Sprintf(" ipv%d", c.Family)
	}
	return fmt.Sprintf("%s: %s: %s%s: %s (sent %d, reached the gateway %v, seen: %s; control: %s)", c.Stage, c.Group, c.Name, family, c.Verdict,
		c.Sent, c.Reached, strings.Join(c.Leaks, ", "), strings.Join(c.Control, ", "))
}
