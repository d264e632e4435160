package daemon

import (
	"context"

	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/policy"
)

// policies is what the console needs of policy sets.
func (k *control) policies() console.Policies {
	return console.Policies{
		Sets: table[quarantine.PolicySet]{k.store.SetTable()}, Conducts: conducts{k.store}, Rulebook: rulebook{}, Try: k.gate.Try,
	}
}

// conducts gives the console the store's conduct, errors translated.
type conducts struct{ store *store.Store }

func (c conducts) Conduct(ctx context.Context) (console.Item[quarantine.Conduct], error) {
	it, err := c.store.Conduct(ctx)
	return console.Item[quarantine.Conduct](it), translate(err)
}

func (c conducts) PutConduct(ctx context.Context, by quarantine.Actor, it console.Item[quarantine.Conduct]) (console.Item[quarantine.Conduct], error) {
	out, err := c.store.PutConduct(ctx, by, store.Item[quarantine.Conduct](it))
	return console.Item[quarantine.Conduct](out), translate(err)
}

// rulebook is the language of policy sets as the console asks for it.
type rulebook struct{}

func (rulebook) Parse(text string) (quarantine.PolicySet, *bool, []api.PolicyFault) {
	d, faults := policy.ParseText([]byte(text))
	if d.SaysAssigned {
		return d.Set, &d.Set.Assigned, showFaults(faults)
	}
	return d.Set, nil, showFaults(faults)
}

func (rulebook) Check(s quarantine.PolicySet) []api.PolicyFault { return showFaults(policy.Check(s)) }
func (rulebook) Text(s quarantine.PolicySet) string             { return policy.Format(s) }
func (rulebook) Asks(expression string) []string                { return policy.Asks(expression) }

func (rulebook) Facts() []api.Fact {
	var out []api.Fact
	for _, f := range policy.Vocabulary() {
		out = append(out, api.Fact{Name: f.Name, Type: string(f.Type), Text: f.Text, From: f.From()})
	}
	return out
}

func showFaults(faults policy.Faults) []api.PolicyFault {
	var out []api.PolicyFault
	for _, f := range faults {
		shown := api.PolicyFault{Rule: f.Rule, Field: f.Field, Line: f.Line, Column: f.Column, What: f.What, Remedy: f.Remedy}
		if f.At.Line > 0 {
			shown.Line, shown.Column = f.At.Line, f.At.Column
		}
		out = append(out, shown)
	}
	return out
}
