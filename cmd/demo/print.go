package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// figure is one thing measured, by the name it has in the JSON form.
type figure struct {
	key   string
	value any
}

// check is one thing that had to hold.
type check struct {
	ok   bool
	text string
}

// result is what a step found.
type result struct {
	figures []figure
	checks  []check
}

// figure notes a measurement. Durations are given in milliseconds.
func (r *result) figure(key string, value any) {
	if d, ok := value.(time.Duration); ok {
		value = float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
	}
	r.figures = append(r.figures, figure{key, value})
}

// check notes whether something held that had to.
func (r *result) check(ok bool, format string, args ...any) {
	r.checks = append(r.checks, check{ok, fmt.Sprintf(format, args...)})
}

// ok reports whether all held; a step that checked nothing has shown nothing.
func (r *result) ok() bool {
	for _, c := range r.checks {
		if !c.ok {
			return false
		}
	}
	return len(r.checks) > 0
}

// printer shows the demo's progress: text for people, or JSON with one object per line.
type printer struct {
	out, errs io.Writer
	json      bool
	started   time.Time
	failed    []string
	broken    error // why it did not come to its end; nil if it did
}

// progress says what is under way.
func (p *printer) progress(format string, args ...any) {
	w := p.out
	if p.json {
		w = p.errs
	}
	fmt.Fprintf(w, "  ... "+format+"\n", args...)
}

// begin announces a step.
func (p *printer) begin(id, title string) {
	w := p.out
	if p.json {
		w = p.errs
	}
	fmt.Fprintf(w, "(%s) %s\n", id, title)
}

// end shows what a step found.
func (p *printer) end(id, title string, r *result, took time.Duration) {
	if !r.ok() {
		p.failed = append(p.failed, id)
	}
	if p.json {
		p.object(id, title, r, took)
		return
	}
	for _, c := range r.checks {
		sign := "✓"
		if !c.ok {
			sign = "✗ FAILED:"
		}
		fmt.Fprintf(p.out, "    %s %s\n", sign, c.text)
	}
	fmt.Fprintf(p.out, "    %.1f s\n", took.Seconds())
}

// object writes a step as one line of JSON, figures in the order in which they were taken.
func (p *printer) object(id, title string, r *result, took time.Duration) {
	all := []figure{{"step", id}, {"title", title}, {"ok", r.ok()}, {"seconds", float64(took.Milliseconds()) / 1000}}
	all = append(all, r.figures...)
	held, failed := []string{}, []string{}
	for _, c := range r.checks {
		if c.ok {
			held = append(held, c.text)
		} else {
			failed = append(failed, c.text)
		}
	}
	all = append(all, figure{"held", held}, figure{"failed", failed})
	p.line(all)
}

func (p *printer) line(all []figure) {
	var b bytes.Buffer
	for i, f := range all {
		key, _ := json.Marshal(f.key) // a string
		value, err := json.Marshal(f.value)
		if err != nil {
			value, _ = json.Marshal(err.Error())
		}
		b.WriteByte(",{"[min(i, 1)^1])
		fmt.Fprintf(&b, "%s:%s", key, value)
	}
	fmt.Fprintf(p.out, "%s}\n", b.Bytes())
}

// summary is the last thing printed.
func (p *printer) summary(ok bool) {
	took := time.Since(p.started)
	if p.json {
		all := []figure{{"summary", true}, {"ok", ok}, {"seconds", float64(took.Milliseconds()) / 1000}, {"failed", append([]string{}, p.failed...)}}
		if p.broken != nil {
			all = append(all, figure{"error", p.broken.Error()})
		}
		p.line(all)
		return
	}
	if ok {
		fmt.Fprintf(p.out, "\nall steps held, in %.0f s\n", took.Seconds())
		return
	}
	why := ""
	if p.broken != nil {
		why = ": " + p.broken.Error()
	}
	fmt.Fprintf(p.out, "\nFAILED: step %s, after %.0f s%s\n", strings.Join(p.failed, ", "), took.Seconds(), why)
}
