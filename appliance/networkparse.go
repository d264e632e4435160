package appliance

import (
	"encoding/json"
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// ParseNetwork reads network-config version 2 (netplan), also below a key "network", and
// checks it. The error is of type Faults and lists everything that is wrong. Documents of
// more than 64 KiB are refused.
func ParseNetwork(text []byte) (Network, error) {
	d := &document{lines: make(map[string]int)}
	var n Network
	top := d.root(text)
	if top == nil {
		return Network{}, d.sorted()
	}
	if len(top.Content) == 2 && top.Content[0].Value == "network" && top.Content[1].Kind == yaml.MappingNode {
		top = top.Content[1]
	}
	if v := member(top, "version"); v != nil && v.Value == "1" {
		d.fault(v.Line, "this is network-config version 1; write it in version 2, with ethernets, bonds and vlans")
		return Network{}, d.sorted()
	}
	d.decode(top, reflect.ValueOf(&n).Elem(), "")
	n.check("", d.reporter())
	if err := d.sorted(); err != nil {
		return Network{}, err
	}
	return n, nil
}

// member returns a mapping's value by its key, or nil.
func member(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// Check says what is wrong with a network; the error is of type Faults, without lines.
func (n Network) Check() error {
	var c checked
	n.check("", c.fault)
	return c.err()
}

// Marshal writes n as ParseNetwork reads it.
func (n Network) Marshal() ([]byte, error) {
	n.Version = 2
	// By way of JSON, whose encoder knows when an address is none; YAML's leaves out every one.
	text, err := json.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("writing the network: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("writing the network: %w", err)
	}
	block(&doc)
	if text, err = yaml.Marshal(&doc); err != nil {
		return nil, fmt.Errorf("writing the network: %w", err)
	}
	return text, nil
}

// block makes n one of lines, as people write it.
func block(n *yaml.Node) {
	n.Style &= yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		block(c)
	}
}

// Automatic is the network of a machine that was told nothing: every card asks DHCP and
// listens to routers.
func Automatic() Network {
	return Network{Version: 2, Ethernets: map[string]Ethernet{
		"cards": {Match: Match{Name: "*"}, Link: Link{DHCP4: true, DHCP6: true, AcceptRA: true}},
	}}
}

// checked collects the faults of values that stand in no document.
type checked struct{ faults Faults }

func (c *checked) fault(_, format string, args ...any) {
	c.faults = append(c.faults, Fault{Text: fmt.Sprintf(format, args...)})
}

func (c *checked) err() error {
	if len(c.faults) == 0 {
		return nil
	}
	return c.faults
}
