package volume

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// readResources starts with what the existing driver gives every mount pod. An
// annotation of the claim wins over an attribute. "0" drops a limit; a request
// of zero is kept, since Kubernetes takes a limit for a missing request.
func readResources(attributes lookup, faults *faults) Resources {
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
		text := attributes.value(field.key)
		if text == "" {
			continue
		}
		quantity, err := resource.ParseQuantity(text)
		if err != nil || quantity.Sign() < 0 {
			attributes.fault(faults, field.key, "%q is not a quantity such as 500m or 1Gi", text)
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
	capRequests(resources, asked, attributes, faults)
	return resources
}

// capRequests lowers default requests to the limits that a user set: Kubernetes
// refuses a pod that requests more than its limit.
func capRequests(resources Resources, asked map[string]bool, attributes lookup, faults *faults) {
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
			attributes.fault(faults, "juicefs/mount-"+name+"-request", "%s is more than the limit, %s", text, limit.String())
			continue
		}
		resources.Requests[name] = limit.String()
	}
}

// ResourcePercentages are shares of what the application's containers have.
type ResourcePercentages struct {
	// Requests and Limits are percentages, such as 50, "50" or "50%", by resource
	// name.
	Requests map[string]intstr.IntOrString `json:"requests,omitempty"`
	Limits   map[string]intstr.IntOrString `json:"limits,omitempty"`
	// MinLimits are quantities: no limit becomes lower.
	MinLimits map[string]string `json:"minLimits,omitempty"`
}

// check finds what is no percentage and no quantity.
func (p *ResourcePercentages) check(key string, faults *faults) {
	for field, shares := range map[string]map[string]intstr.IntOrString{"requests": p.Requests, "limits": p.Limits} {
		for _, name := range slices.Sorted(maps.Keys(shares)) {
			share := shares[name]
			if _, err := percentOf(share); err != nil {
				faults.add(sourceConfig, key+"."+field+"."+name, "%q is not a percentage such as 50%%", share.String())
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.MinLimits)) {
		if quantity, err := resource.ParseQuantity(p.MinLimits[name]); err != nil || quantity.Sign() < 0 {
			faults.add(sourceConfig, key+".minLimits."+name, "%q is not a quantity such as 500m or 1Gi", p.MinLimits[name])
		}
	}
}

func percentOf(share intstr.IntOrString) (float64, error) {
	percent, err := strconv.ParseFloat(strings.TrimSuffix(share.String(), "%"), 64)
	if err != nil || !(percent >= 0 && percent <= 100_000) {
		return 0, strconv.ErrRange
	}
	return percent, nil
}

// leastLimit is what a client needs to live: no share of a small application is
// less. It is empty for other resources.
func (p *ResourcePercentages) leastLimit(name string) string {
	if text := p.MinLimits[name]; text != "" {
		return text
	}
	return map[string]string{"cpu": "100m", "memory": "300Mi"}[name]
}

func (p *ResourcePercentages) atLeast(name string, limit resource.Quantity) resource.Quantity {
	least, err := resource.ParseQuantity(p.leastLimit(name))
	if err != nil || limit.Cmp(least) >= 0 {
		return limit
	}
	return least
}

// apply sets the shares of what is known of the application, and leaves the
// rest as it is.
func (p *ResourcePercentages) apply(resources *Resources, app Resources) {
	limits, requests := maps.Clone(resources.Limits), maps.Clone(resources.Requests)
	for name, share := range p.Limits {
		if limit, known := shareOf(name, share, app.Limits[name]); known {
			limits = put(limits, name, p.atLeast(name, limit))
		}
	}
	for name, share := range p.Requests {
		if request, known := shareOf(name, share, app.Requests[name]); known {
			requests = put(requests, name, request)
		}
	}
	*resources = Resources{Requests: requests, Limits: limits}
	resources.capRequests()
}

// capRequests lowers requests to their limits.
func (r *Resources) capRequests() {
	for name, text := range r.Limits {
		limit, wrongLimit := resource.ParseQuantity(text)
		request, wrongRequest := resource.ParseQuantity(r.Requests[name])
		if wrongLimit == nil && wrongRequest == nil && request.Cmp(limit) > 0 {
			r.Requests[name] = text
		}
	}
}

func put(quantities map[string]string, name string, quantity resource.Quantity) map[string]string {
	if quantities == nil {
		quantities = make(map[string]string)
	}
	quantities[name] = quantity.String()
	return quantities
}

// shareOf is the share of a quantity; known is false when there is none.
func shareOf(name string, share intstr.IntOrString, whole string) (quantity resource.Quantity, known bool) {
	percent, err := percentOf(share)
	quantity, wrong := resource.ParseQuantity(whole)
	if whole == "" || err != nil || wrong != nil {
		return resource.Quantity{}, false
	}
	if name == string(corev1.ResourceCPU) {
		return *resource.NewMilliQuantity(int64(float64(quantity.MilliValue())*percent/100), resource.DecimalSI), true
	}
	return *resource.NewQuantity(int64(float64(quantity.Value())*percent/100), resource.BinarySI), true
}
