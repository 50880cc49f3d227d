package main

// schema is a JSON Schema.
type schema map[string]any

// object takes the given keys and no others.
func object(properties map[string]schema) schema {
	return schema{"type": "object", "additionalProperties": false, "properties": properties}
}

// mapOf takes any keys.
func mapOf(values schema) schema {
	return schema{"type": "object", "additionalProperties": values}
}

// kubernetesObject is a part of a Kubernetes object, which the API server checks.
func kubernetesObject() schema { return schema{"type": "object"} }

func arrayOf(items schema) schema { return schema{"type": "array", "items": items} }

func text() schema { return schema{"type": "string"} }

func boolean() schema { return schema{"type": "boolean"} }

func matching(pattern string) schema { return schema{"type": "string", "pattern": pattern} }

func oneOf(values ...string) schema { return schema{"enum": values} }

func atLeast(minimum int) schema { return schema{"type": "integer", "minimum": minimum} }

func port() schema { return schema{"type": "integer", "minimum": 1, "maximum": 65535} }

// textOrNumber is a quantity or a count, which YAML may read as a number.
func textOrNumber() schema { return schema{"type": []string{"string", "integer", "number"}} }

// required adds keys that must be there.
func (s schema) required(keys ...string) schema {
	s["required"] = keys
	return s
}

// described adds a text for editors.
func (s schema) described(text string) schema {
	s["description"] = text
	return s
}

// orNull also takes a key without a value.
func (s schema) orNull() schema {
	s["type"] = []any{s["type"], "null"}
	return s
}
