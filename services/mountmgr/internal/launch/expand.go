package launch

import (
	"flag"
	"regexp"
	"slices"
	"strings"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// Expand puts values of the environment into arguments of the form
// --flag=${NAME}, for clients that take secrets as flags only. Anything else, and
// names that are not set, stay as they are.
func Expand(argv, environment []string) []string {
	form := regexp.MustCompile(`^(--[a-z0-9-]+=)\$\{([A-Za-z_][A-Za-z0-9_]*)\}$`)
	expanded := slices.Clone(argv)
	for i, argument := range expanded {
		match := form.FindStringSubmatch(argument)
		if match == nil {
			continue
		}
		for _, variable := range environment {
			if value, found := strings.CutPrefix(variable, match[2]+"="); found {
				expanded[i] = match[1] + value
			}
		}
	}
	return expanded
}

// passEnvFlag registers the flag for passOn.
func passEnvFlag(flags *flag.FlagSet, names *[]string) {
	flags.Func("pass-env", "comma list of environment `variables` that the client gets too", func(list string) error {
		*names = strings.Split(list, ",")
		return nil
	})
}

// passOn adds the variables of the program's own environment that are to be
// handed on, unless spec has them. They are kept out of the output like those
// of spec.
func passOn(spec *launchv1.Spec, names, own []string) {
	for _, name := range names {
		if slices.ContainsFunc(spec.GetEnv(), func(e *launchv1.EnvVar) bool { return e.GetName() == name }) {
			continue
		}
		for _, variable := range own {
			if value, found := strings.CutPrefix(variable, name+"="); found {
				spec.Env = append(spec.Env, &launchv1.EnvVar{Name: name, Value: value})
				break
			}
		}
	}
}
