package console

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3gen"

	"lazaret/internal/audit"
	"lazaret/internal/console/api"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// TestDescription holds openapi.json to the table of routes and to the shapes: what is
// served is what is described.
func TestDescription(t *testing.T) {
	doc := describe(t)
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("the description is no OpenAPI document: %v", err)
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile("openapi.json", text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(text, description) && !*update {
		t.Error("openapi.json is behind the routes: run go test ./internal/console -run TestDescription -update")
	}
}

func describe(t *testing.T) *openapi3.T {
	t.Helper()
	doc := &openapi3.T{
		OpenAPI: "3.0.3",
		Info:    &openapi3.Info{Title: "Lazaret administration API", Version: "1", License: &openapi3.License{Name: "Apache-2.0"}},
		Paths:   openapi3.NewPaths(),
		Components: &openapi3.Components{Schemas: openapi3.Schemas{}, SecuritySchemes: openapi3.SecuritySchemes{
			"token": {Value: openapi3.NewSecurityScheme().WithType("http").WithScheme("bearer")},
		}},
	}
	// OpenAPI 3.0 has no name for client certificates: words must do.
	doc.Info.Description = "Send an administrator's client certificate, or an API token as bearer."
	problem := openapi3.NewResponse().WithDescription("what was wrong, and what to do").WithJSONSchemaRef(schema(t, doc, api.Problem{}))
	for _, r := range (&Server{}).routes() {
		method, path, _ := strings.Cut(r.pattern, " ")
		op := openapi3.NewOperation()
		op.Summary, op.OperationID = r.summary, operationID(method, path)
		if r.need == anyone {
			op.Extensions = map[string]any{"x-permission": string(anyone)}
		} else {
			op.Security = openapi3.NewSecurityRequirements().With(openapi3.SecurityRequirement{"token": {}})
			op.Description, op.Extensions = "Needs "+string(r.need), map[string]any{"x-permission": string(r.need)}
			for _, b := range more[r.pattern] {
				op.Description += ", and " + string(b.need)
				if b.when != "" {
					op.Description += " where " + b.when
				}
			}
			op.Description += "."
			if also := more[r.pattern]; len(also) > 0 {
				list := make([]map[string]string, len(also))
				for i, b := range also {
					list[i] = map[string]string{"permission": string(b.need)}
					if b.when != "" {
						list[i]["where"] = b.when
					}
				}
				op.Extensions["x-permission-also"] = list
			}
		}
		for _, name := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
			op.AddParameter(openapi3.NewPathParameter(name[1]).WithSchema(openapi3.NewStringSchema()))
		}
		if r.in != nil {
			op.RequestBody = &openapi3.RequestBodyRef{Value: openapi3.NewRequestBody().WithJSONSchemaRef(schema(t, doc, r.in))}
		}
		ok := openapi3.NewResponse().WithDescription("success")
		if r.out != nil {
			ok = ok.WithJSONSchemaRef(schema(t, doc, r.out))
		}
		op.AddResponse(r.status, ok)
		if _, placed := r.out.(api.Placed); placed {
			op.AddResponse(http.StatusAccepted, openapi3.NewResponse().WithDescription("recorded, enforced as soon as the data plane answers").WithJSONSchemaRef(schema(t, doc, r.out)))
		}
		op.Responses.Set("default", &openapi3.ResponseRef{Value: problem})
		doc.AddOperation(path, method, op)
	}
	return doc
}

func operationID(method, path string) string {
	id := strings.ToLower(method)
	for part := range strings.SplitSeq(strings.TrimPrefix(path, "/api/v1/"), "/") {
		id += "-" + strings.Trim(part, "{}")
	}
	return id
}

// schema describes a shape, each named type once.
func schema(t *testing.T, doc *openapi3.T, v any) *openapi3.SchemaRef {
	t.Helper()
	ref, err := openapi3gen.NewSchemaRefForValue(v, doc.Components.Schemas, openapi3gen.SchemaCustomizer(
		func(_ string, typ reflect.Type, _ reflect.StructTag, s *openapi3.Schema) error {
			switch typ {
			case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix](), reflect.TypeFor[audit.Hash]():
				*s = *openapi3.NewStringSchema()
			}
			return nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}
