package volume

import (
	"encoding/json"
	"fmt"
	"strconv"
)

type jsonDecoder = json.Decoder

// scalarText is the text of a JSON scalar.
func scalarText(value any) (string, error) {
	switch typed := value.(type) {
	case nil:
		return "", nil
	case string:
		return typed, nil
	case bool:
		return strconv.FormatBool(typed), nil
	case json.Number:
		return typed.String(), nil
	default:
		return "", fmt.Errorf("%T is not a single value", value)
	}
}
