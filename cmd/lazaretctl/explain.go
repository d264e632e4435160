package main

import (
	"cmp"
	"fmt"
	"io"

	"lazaret/internal/console/api"
)

// showExplanation tells why a device is where it is, since when, by which report, and what
// would change it.
func showExplanation(w io.Writer, e api.Explanation) {
	fmt.Fprintf(w, "%s is %s%s, since %s", e.Device.Name, paint(w, e.Decided.Stage), inPool(e.Decided), ago(e.Device.Since))
	if !e.Decided.Until.IsZero() {
		fmt.Fprintf(w, ", until %s (%s)", e.Decided.Until.Local().Format("2006-01-02 15:04:05"), ago(e.Decided.Until))
	}
	fmt.Fprintln(w)
	for _, r := range e.Decided.Reasons {
		showReason(w, r)
	}
	if len(e.Failing) > 0 {
		fmt.Fprintln(w, "rules that fail")
		for _, f := range e.Failing {
			fmt.Fprintf(w, "  %-28s since %s\n", f.Rule, ago(f.Since))
		}
	}
	if len(e.Waivers) > 0 {
		fmt.Fprintln(w, "rules that do not count for a while")
		for _, v := range e.Waivers {
			fmt.Fprintf(w, "  %-28s until %s, by %s: %s\n", v.Rule, ago(v.Until), v.By, v.Why)
		}
	}
	if u := e.Session; u != nil {
		fmt.Fprintf(w, "%s signed in %s, until %s, as %s says\n", u.User, ago(u.At), ago(u.Until), u.By)
	}
	showReports(w, e.Reports)
	for _, p := range e.Pending {
		fmt.Fprintln(w, "applied, waits for the store:", p)
	}
	if !e.Enforced {
		fmt.Fprintln(w, "not enforced yet:", dash(e.Problem))
	}
	if len(e.Remedies) > 0 {
		fmt.Fprintln(w, "To change it:")
		for _, r := range e.Remedies {
			fmt.Fprintln(w, "  *", r)
		}
	}
}

// showReason prints one rule, what it found, and what that rests on.
func showReason(w io.Writer, r api.Reason) {
	sign := "-"
	if r.Holds {
		sign = "+"
	}
	fmt.Fprintf(w, "  %s %-18s %s\n", sign, r.Rule, r.Text)
	if r.Set == "" {
		return
	}
	line := fmt.Sprintf("policy set %s v%d", r.Set, r.Version)
	if r.Fact != "" {
		line += ", fact " + r.Fact
	}
	if r.Source != "" {
		line += ", reported by " + r.Source
		if !r.At.IsZero() {
			line += " " + ago(r.At)
		}
	}
	fmt.Fprintf(w, "    %-18s %s\n", "", line)
	if r.Fault {
		fmt.Fprintf(w, "    %-18s the policy's fault, not the device's: the rule cannot be evaluated\n", "")
	}
}

func showReports(w io.Writer, all []api.Report) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w, "reports")
	for _, r := range all {
		right := "does not release"
		if r.Releases {
			right = "may release"
		}
		fmt.Fprintf(w, "  %-18s %s, taken %s, valid for %s, %s\n", r.Source, cmp.Or(r.Verdict, "unknown"), ago(r.At), r.Validity, right)
	}
}
