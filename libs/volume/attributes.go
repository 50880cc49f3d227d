package volume

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Keys of volume attributes, which are the parameters of a StorageClass too.
const (
	AttributeSubPath            = "subPath"
	AttributeCapacity           = "capacity"
	AttributePathPattern        = "pathPattern"
	AttributeMountOptions       = "mountOptions"
	AttributeSecretFinalizer    = "secretFinalizer"
	AttributeControllerQuotaSet = "juicefs/controller-quota-set"

	attributeCPULimit      = "juicefs/mount-cpu-limit"
	attributeMemoryLimit   = "juicefs/mount-memory-limit"
	attributeCPURequest    = "juicefs/mount-cpu-request"
	attributeMemoryRequest = "juicefs/mount-memory-request"

	attributeImage          = "juicefs/mount-image"
	attributeServiceAccount = "juicefs/mount-service-account"
	attributeLabels         = "juicefs/mount-labels"
	attributeAnnotations    = "juicefs/mount-annotations"
	attributeDeleteDelay    = "juicefs/mount-delete-delay"
	attributeCleanCache     = "juicefs/clean-cache"
	attributeHostPath       = "juicefs/host-path"

	attributeCachePVC          = "juicefs/mount-cache-pvc"
	attributeCacheEmptyDir     = "juicefs/mount-cache-emptydir"
	attributeCacheInlineVolume = "juicefs/mount-cache-inline-volume"

	attributeProtection  = "csi.juicefs.com/crash-protection"
	attributeWarmStandby = "csi.juicefs.com/warm-standby"

	// Set by Kubernetes and its provisioner.
	prefixKubernetes       = "csi.storage.k8s.io/"
	attributeProvisionerID = "storage.kubernetes.io/csiProvisionerIdentity"
)

// knownAttributes are the keys that people may write.
func knownAttributes() []string {
	return []string{
		AttributeSubPath, AttributeCapacity, AttributePathPattern, AttributeMountOptions, AttributeSecretFinalizer,
		AttributeControllerQuotaSet,
		attributeCPULimit, attributeMemoryLimit, attributeCPURequest, attributeMemoryRequest,
		attributeImage, attributeServiceAccount, attributeLabels, attributeAnnotations, attributeDeleteDelay,
		attributeCleanCache, attributeHostPath,
		attributeCachePVC, attributeCacheEmptyDir, attributeCacheInlineVolume,
		attributeProtection, attributeWarmStandby,
	}
}

// checkAttributes refuses keys that nobody reads, which are spelling mistakes.
func checkAttributes(attributes map[string]string, faults *faults) {
	known := knownAttributes()
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		if strings.HasPrefix(key, prefixKubernetes) || key == attributeProvisionerID || slices.Contains(known, key) {
			continue
		}
		if near := closest(key, known); near != "" {
			faults.add(sourceAttribute, key, "is not known; did you mean %s?", near)
			continue
		}
		faults.add(sourceAttribute, key, "is not known")
	}
	for _, key := range []string{attributeCachePVC, attributeCacheEmptyDir, attributeCacheInlineVolume, attributeWarmStandby} {
		if attributes[key] != "" {
			faults.add(sourceAttribute, key, "is not supported yet")
		}
	}
	if err := CheckSubPath(attributes[AttributeSubPath]); err != nil {
		faults.add(sourceAttribute, AttributeSubPath, "%v", err)
	}
}

// CheckSubPath refuses what could reach outside of the file system's directory
// or, since the path becomes a part of an option list, what could add options.
// Claims can choose the path where a class has templates.
func CheckSubPath(subPath string) error {
	switch {
	case hasParent(subPath):
		return fmt.Errorf("%q must not lead upwards with two dots", subPath)
	case strings.ContainsFunc(subPath, func(r rune) bool { return r == ',' || unicode.IsControl(r) || r == unicode.ReplacementChar }):
		return fmt.Errorf("%q must hold neither commas nor control characters", subPath)
	}
	return nil
}

// closest is the known key that is the fewest changes away, or empty when none
// is near.
func closest(key string, known []string) string {
	best, bestDistance := "", 1+max(2, len(key)/3)
	for _, candidate := range known {
		if distance := editDistance(key, candidate); distance < bestDistance {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

// editDistance counts the letters to insert, drop or change.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// shapeFromAttributes reads what attributes say about the mount pod.
func shapeFromAttributes(in Inputs, faults *faults) PodShape {
	attributes := in.Attributes
	shape := PodShape{
		Image:          cmp.Or(attributes[attributeImage], in.Defaults.CommunityImage),
		ServiceAccount: cmp.Or(attributes[attributeServiceAccount], in.Defaults.ServiceAccount),
		PriorityClass:  in.Defaults.PriorityClass,
		Labels:         stringMapAttribute(attributes, attributeLabels, faults),
		Annotations:    stringMapAttribute(attributes, attributeAnnotations, faults),
		Resources:      readResources(in, faults),
	}
	for dir := range strings.SplitSeq(attributes[attributeHostPath], ",") {
		dir = strings.TrimSpace(dir)
		if dir == "" {
			continue
		}
		if !isCleanAbsolute(dir) {
			faults.add(sourceAttribute, attributeHostPath, "%q is not an absolute path without . and ..", dir)
			continue
		}
		shape.HostPaths = append(shape.HostPaths, path.Clean(dir))
	}
	slices.Sort(shape.HostPaths)
	shape.HostPaths = slices.Compact(shape.HostPaths)
	return shape
}

func stringMapAttribute(attributes map[string]string, key string, faults *faults) map[string]string {
	text := attributes[key]
	if text == "" {
		return map[string]string{}
	}
	values, err := parseStringMap(text)
	if err != nil {
		faults.add(sourceAttribute, key, "%q is not a JSON or YAML map of names to values", text)
		return map[string]string{}
	}
	return values
}

// readResources starts with what the existing driver gives every mount pod. An
// annotation of the claim wins over an attribute. "0" drops a limit; a request
// of zero is kept, since Kubernetes takes a limit for a missing request.
func readResources(in Inputs, faults *faults) Resources {
	resources := Resources{
		Requests: map[string]string{"cpu": "1", "memory": "1Gi"},
		Limits:   map[string]string{"cpu": "5", "memory": "5Gi"},
	}
	asked := map[string]bool{}
	for _, field := range []struct {
		key, name string
		limit     bool
	}{
		{attributeCPULimit, "cpu", true},
		{attributeMemoryLimit, "memory", true},
		{attributeCPURequest, "cpu", false},
		{attributeMemoryRequest, "memory", false},
	} {
		source, text := sourceClaim, in.Claim.Annotations[field.key]
		if text == "" {
			source, text = sourceAttribute, in.Attributes[field.key]
		}
		if text == "" {
			continue
		}
		quantity, err := resource.ParseQuantity(text)
		if err != nil || quantity.Sign() < 0 {
			faults.add(source, field.key, "%q is not a quantity such as 500m or 1Gi", text)
			continue
		}
		switch {
		case field.limit && quantity.IsZero():
			delete(resources.Limits, field.name)
		case field.limit:
			resources.Limits[field.name] = quantity.String()
		default:
			resources.Requests[field.name] = quantity.String()
			asked[field.name] = true
		}
	}
	capRequests(resources, asked, faults)
	return resources
}

// capRequests lowers default requests to the limits that a user set: Kubernetes
// refuses a pod that requests more than its limit.
func capRequests(resources Resources, asked map[string]bool, faults *faults) {
	for _, name := range slices.Sorted(maps.Keys(resources.Limits)) {
		limit := resource.MustParse(resources.Limits[name])
		text, found := resources.Requests[name]
		if !found {
			continue
		}
		if request := resource.MustParse(text); request.Cmp(limit) <= 0 {
			continue
		}
		if asked[name] {
			faults.add(sourceAttribute, "juicefs/mount-"+name+"-request", "%s is more than the limit, %s", text, limit.String())
			continue
		}
		resources.Requests[name] = limit.String()
	}
}

// readLife reads what attributes say about the end and the recovery of a mount.
func readLife(attributes map[string]string, settings *Settings, faults *faults) {
	if text := attributes[attributeDeleteDelay]; text != "" {
		delay, err := time.ParseDuration(text)
		if err != nil || delay < 0 {
			faults.add(sourceAttribute, attributeDeleteDelay, "%q is not a duration such as 5m or 1h30m", text)
		}
		settings.DeleteDelay = delay
	}
	if text := attributes[attributeCleanCache]; text != "" {
		clean, err := strconv.ParseBool(text)
		if err != nil {
			faults.add(sourceAttribute, attributeCleanCache, "%q is neither true nor false", text)
		}
		settings.CleanCache = clean
	}
	settings.Protection = ProtectFull
	if text := attributes[attributeProtection]; text != "" {
		settings.Protection = Protection(text)
		if !slices.Contains([]Protection{ProtectFull, ProtectSession, ProtectConnection}, settings.Protection) {
			faults.add(sourceAttribute, attributeProtection, "%q is none of full, session, connection", text)
		}
	}
}
