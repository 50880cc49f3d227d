package provisioner

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
)

// Parameters of a StorageClass that name Secrets.
const (
	prefixKubernetes = "csi.storage.k8s.io/"
	publishName      = prefixKubernetes + "node-publish-secret-name"
	publishNamespace = prefixKubernetes + "node-publish-secret-namespace"
	expandName       = prefixKubernetes + "controller-expand-secret-name"
	expandNamespace  = prefixKubernetes + "controller-expand-secret-namespace"
)

// class is a StorageClass with its templates filled in for one claim.
type class struct {
	attributes   map[string]string
	mountOptions []string
	publish      *corev1.SecretReference
	expand       *corev1.SecretReference
}

// resolveClass fills in the templates. The result has attributes for the
// PersistentVolume: all parameters but those of Kubernetes itself.
func resolveClass(parameters map[string]string, mountOptions []string, volumeName string, objects objects) (class, error) {
	resolved := class{attributes: make(map[string]string, len(parameters)+2)}
	kubernetes := make(map[string]string)
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		var err error
		if strings.HasPrefix(key, prefixKubernetes) {
			kubernetes[key], err = resolveSecret(parameters[key], volumeName, objects.claim)
		} else {
			resolved.attributes[key], err = resolveParameter(key, parameters[key], objects)
		}
		if err != nil {
			return class{}, fmt.Errorf("StorageClass parameter %s: %w", key, err)
		}
	}
	for _, list := range mountOptions {
		options, err := resolveOptions(list, objects)
		if err != nil {
			return class{}, fmt.Errorf("StorageClass mountOptions: %w", err)
		}
		resolved.mountOptions = append(resolved.mountOptions, options...)
	}
	resolved.publish = secretReference(kubernetes, publishName, publishNamespace)
	resolved.expand = secretReference(kubernetes, expandName, expandNamespace)
	return resolved, nil
}

func resolveParameter(key, text string, objects objects) (string, error) {
	if key != volume.AttributeMountOptions {
		return objects.resolve(text)
	}
	options, err := resolveOptions(text, objects)
	return strings.Join(options, ","), err
}

// resolveOptions fills in the options of a comma list one by one: what a claim
// puts in cannot become a further option.
func resolveOptions(list string, objects objects) ([]string, error) {
	options := make([]string, 0, 1)
	for option := range strings.SplitSeq(list, ",") {
		resolved, err := objects.resolve(option)
		if err != nil {
			return nil, err
		}
		if strings.Contains(resolved, ",") {
			return nil, fmt.Errorf("option %s must not hold a comma from a label or annotation: %w", option, errdefs.ErrInvalidArgument)
		}
		options = append(options, resolved)
	}
	return options, nil
}

func secretReference(parameters map[string]string, nameKey, namespaceKey string) *corev1.SecretReference {
	name, namespace := parameters[nameKey], parameters[namespaceKey]
	if name == "" || namespace == "" {
		return nil
	}
	return &corev1.SecretReference{Name: name, Namespace: namespace}
}

// place sets where the volume is: the resolved pathPattern, or the name of the
// PersistentVolume. A pattern that leaves nothing would make the whole file
// system the volume.
func (c *class) place(pattern, volumeName string) error {
	subPath := volumeName
	if pattern != "" {
		subPath = strings.Trim(c.attributes[volume.AttributePathPattern], "/")
	}
	if err := volume.CheckSubPath(subPath); err != nil {
		return fmt.Errorf("StorageClass parameter %s gives a bad path: %w: %w",
			volume.AttributePathPattern, err, errdefs.ErrInvalidArgument)
	}
	if volume.Directory(map[string]string{volume.AttributeSubPath: subPath}, nil) == "" {
		return fmt.Errorf("StorageClass parameter %s, %q, gives the root of the file system for this claim: %w",
			volume.AttributePathPattern, pattern, errdefs.ErrInvalidArgument)
	}
	c.attributes[volume.AttributeSubPath] = subPath
	return nil
}
