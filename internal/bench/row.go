package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// row is one result. Bound, where there is one, is the highest Ratio that is good, or the
// highest Value where nothing is divided; with AtLeast, the lowest.
type row struct {
	Group        string   `json:"group"`
	Name         string   `json:"name"`
	Value        float64  `json:"value"`
	Base         *float64 `json:"base"` // what Value is divided by, in the same unit
	Unit         string   `json:"unit"`
	ComparedWith string   `json:"compared_with"`
	Ratio        *float64 `json:"ratio"`
	Bound        *float64 `json:"bound"`
	AtLeast      bool     `json:"at_least,omitempty"`
	OK           bool     `json:"ok"`

	// Of the row "machine" alone.
	Kernel string         `json:"kernel,omitempty"`
	CPU    string         `json:"cpu,omitempty"`
	Go     string         `json:"go,omitempty"`
	Sizes  map[string]int `json:"sizes,omitempty"`
	At     string         `json:"at,omitempty"`
	Load   string         `json:"load,omitempty"` // of the minutes before, as /proc/loadavg has it
}

func number(f float64) *float64 { return &f }

// judge sets OK. What cannot be compared with its bound is not good.
func (r *row) judge() {
	if r.Bound == nil {
		r.OK = true
		return
	}
	got := r.Value
	if r.Ratio != nil {
		got = *r.Ratio
	}
	r.OK = got <= *r.Bound
	if r.AtLeast {
		r.OK = got >= *r.Bound
	}
}

// limit is the bound as it is read: the highest that is good, or the lowest.
func (r row) limit() string {
	if r.AtLeast {
		return ">= " + short(*r.Bound)
	}
	return "<= " + short(*r.Bound)
}

func (r row) String() string {
	s := fmt.Sprintf("%s: %s %s", r.Name, short(r.Value), r.Unit)
	if r.Base != nil {
		s += fmt.Sprintf(" against %s", short(*r.Base))
	}
	if r.Ratio != nil {
		s += fmt.Sprintf(", ratio %s", short(*r.Ratio))
	}
	if r.Bound != nil {
		s += fmt.Sprintf(", bound %s", r.limit())
	}
	return s
}

// short prints about three digits that count.
func short(f float64) string {
	switch a := max(f, -f); {
	case a >= 100:
		return fmt.Sprintf("%.0f", f)
	case a >= 10:
		return fmt.Sprintf("%.1f", f)
	case a >= 1:
		return fmt.Sprintf("%.2f", f)
	}
	return fmt.Sprintf("%.3f", f)
}

func printTable(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tvalue\tagainst\tunit\tratio\tbound\tok\tcompared with")
	for _, r := range rows {
		base, ratio, bound, ok := "", "", "", ""
		if r.Base != nil {
			base = short(*r.Base)
		}
		if r.Ratio != nil {
			ratio = short(*r.Ratio)
		}
		if r.Bound != nil {
			bound, ok = r.limit(), "yes"
			if !r.OK {
				ok = "MISSED"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, short(r.Value), base, r.Unit, ratio, bound, ok, r.ComparedWith)
	}
	t.Flush()
}

// printJSON is the same as one JSON array.
func printJSON(w io.Writer, rows []row) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(rows); err != nil {
		return fmt.Errorf("writing results: %w", err)
	}
	return nil
}

func writeJSON(path string, rows []row) error {
	var b bytes.Buffer
	if err := printJSON(&b, rows); err != nil {
		return err
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing results: %w", err)
	}
	return nil
}

// machine says where the numbers come from.
func machine(s *session) row {
	var uts unix.Utsname
	kernel := "unknown"
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	r := row{
		Name: "machine", Value: float64(runtime.NumCPU()), Unit: "cores", Kernel: kernel, CPU: cpuModel(), Go: runtime.Version(),
		Sizes: map[string]int{"rounds": s.rounds, "moves": s.movesPerRound(), "enrollments": s.enrollmentsPerRound(), "reports": s.reportsPerRound()},
		At:    time.Now().UTC().Format(time.RFC3339),
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	counts := s.deviceCounts()
	r.Sizes["devices_least"], r.Sizes["devices_most"], r.Sizes["moving"] = counts[0], counts[len(counts)-1], movers
	r.ComparedWith = fmt.Sprintf("Linux %s, %s, %s; load before %s; medians of %d rounds", kernel, r.CPU, r.Go, r.Load, s.rounds)
	r.judge()
	return r
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
