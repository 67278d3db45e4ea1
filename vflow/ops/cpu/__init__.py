"""Operations on the native CPU library: tensors in, tensors out, the inputs checked before."""
